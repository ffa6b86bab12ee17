"""The resumable loop under every training stage.

``step_fn(step)`` must be a function of the step number and the trainable state alone (all its
randomness from streams named by the step); then a run killed at any moment and started again with
the same command ends with the metrics and weights of the run that was never killed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mmalign.engine.checkpoint import latest_checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint
from mmalign.rng import derive_seed

__all__ = ["Counter", "LoopState", "MetricsSink", "run_loop"]


class Counter(Protocol):
    """A small piece of loop state beside the weights: a KL coefficient, a running normaliser."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists only (it is stored as JSON)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        ...


class MetricsSink(Protocol):
    """Where a loop's metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step."""
        ...

    def rewind(self, step: int) -> None:
        """Forget every record after ``step`` (called once before a resumed loop goes on)."""
        ...


@dataclass(frozen=True)
class LoopState:
    """All that a checkpoint must hold: modules, their optimiser and the loop's counters."""

    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    counters: Mapping[str, Counter] = field(default_factory=dict)


def run_loop(
    step_fn: Callable[[int], Mapping[str, float]],
    state: LoopState,
    *,
    name: str,
    seed: int,
    max_steps: int,
    folder: Path,
    save_steps: int,
    sink: MetricsSink,
    is_main: bool = True,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> None:
    """Run ``step_fn`` for steps ``1..max_steps``, resuming from the newest checkpoint in ``folder``.

    Args:
        step_fn: does one step and returns its metrics (finite numbers).
        state: what is checkpointed.
        name: the stage's name; names its random streams.
        seed: the run's seed.
        max_steps: the last step.
        folder: the stage's folder; checkpoints are ``checkpoint-N`` in it.
        save_steps: steps between checkpoints; the last step is always saved.
        sink: receives the metrics.
        is_main: whether this process writes.
        on_step: called after each step (progress bars).

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the current step was finished and saved.
    """
    start = _resume(state, folder)
    if is_main:
        sink.rewind(start)
    with _deferred_interrupt() as interrupted:
        for step in range(start + 1, max_steps + 1):
            torch.manual_seed(derive_seed(seed, name, "global", step))
            metrics = step_fn(step)
            stop = interrupted.is_set()
            if is_main:
                sink.log(metrics, step)
                if stop or step == max_steps or (save_steps and step % save_steps == 0):
                    _save(state, folder, step)
            if on_step is not None:
                on_step(step, metrics)
            if stop:
                raise KeyboardInterrupt


def _resume(state: LoopState, folder: Path) -> int:
    newest = latest_checkpoint(folder)
    if newest is None:
        return 0
    plain = load_checkpoint(newest, modules=state.modules, optimizer=state.optimizer)
    for name, counter in state.counters.items():
        counter.load_state_dict(plain["counters"][name])
    return int(plain["step"])


def _save(state: LoopState, folder: Path, step: int) -> None:
    counters = {name: counter.state_dict() for name, counter in state.counters.items()}
    save_checkpoint(
        folder / f"checkpoint-{step}",
        modules=state.modules,
        optimizer=state.optimizer,
        state={"step": step, "counters": counters},
    )
    prune_checkpoints(folder, keep=2)


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C finish the current step; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(signum: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
