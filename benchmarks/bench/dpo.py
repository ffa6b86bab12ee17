"""DPO on pairs of any token modality: TRL's step and ours over equal weights, equal pairs and an equal reference."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.bench.definition import Comparison, Step
from mmalign.benchmarks.bench.gradients import flat_gradient, move_away
from mmalign.benchmarks.bench.pairs import as_pairs, as_trl
from mmalign.benchmarks.bench.switches import SWITCHES, switched
from mmalign.benchmarks.bench.trl_peer import dpo_trainer, trl_dpo_step
from mmalign.engine.freeze import freeze
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import CachedReference, Reference, cached_reference
from mmalign.objectives.preference import PairSettings
from mmalign.types import Row

__all__ = ["VARIANTS", "DPOSetting", "comparisons"]

VARIANTS: Mapping[str, str] = {
    "trl": "TRL 1.16 as shipped (on CPU its head scores every position), reference in the step",
    "trl+head": "TRL with its completion-only head enabled on CPU (one condition patched), reference in the step",
    "trl+head+cache": "the same, handed the reference's log-probabilities",
    "mmalign-plain": "mmalign with every switch off, reference in the step",
    "mmalign": "mmalign with every switch on, reference cached",
    "mmalign+ref": "mmalign with every switch on, reference in the step",
    **{f"mmalign-{name}": f"mmalign without {name}, reference cached" for name in SWITCHES},
}


def comparisons(
    bars: bool, *, memory: bool, names: Sequence[str] = tuple(VARIANTS)
) -> tuple[Comparison, ...]:
    """The ratios that every DPO case reports; ``bars`` adds the promised ones."""
    against = {"trl+head": 3.5, "trl": 10.0}
    found = [Comparison(base, "mmalign", bar if bars else None) for base, bar in against.items()]
    found += [
        Comparison("trl+head", "mmalign+ref", 2.5 if bars else None),
        Comparison("trl+head+cache", "mmalign"),
    ]
    found += [Comparison("trl+head", "mmalign-plain"), Comparison("mmalign-plain", "mmalign")]
    found += [Comparison(f"mmalign-{name}", "mmalign") for name in SWITCHES]
    if memory:
        found += [
            Comparison(base, "mmalign", 2.0 if bars else None, memory=True) for base in ("trl", "trl+head")
        ]
    return tuple(c for c in found if c.base in names and c.candidate in names)


@dataclass(frozen=True)
class DPOSetting:
    """A model, how it is tuned, and a batch of pairs; calling it builds the named variants.

    Args:
        modality: the adapter's registered name.
        model: makes the policy with its processor or tokenizer, the same weights each time.
        rows: makes the batch.
        lora: rank of LoRA on every linear layer of the language model; ``None`` trains all weights that are not
            frozen.
        frozen: shell patterns of parameter names that stay.
    """

    modality: str
    model: Callable[[], tuple[Any, Any]]
    rows: Callable[[], list[Row]]
    lora: int | None = 16
    frozen: tuple[str, ...] = ()

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name; TRL and mmalign each have a policy of their own with equal weights."""
        steps: dict[str, Step] = {}
        ours = [name for name in names if name.startswith("mmalign")]
        theirs = [name for name in names if name.startswith("trl")]
        if theirs:
            trainer = self._trainer()
            steps |= {n: trl_dpo_step(trainer, head="+head" in n, cached="+cache" in n) for n in theirs}
        if ours:
            side = _Ours(self, with_copy=any(n in ("mmalign-plain", "mmalign+ref") for n in ours))
            steps |= {name: side.step(name) for name in ours}
        return {name: steps[name] for name in names}

    def policy(self) -> tuple[Any, Any, Any]:
        """Policy at the reference's weights, processor, and an adapter that knows both."""
        model, processing = self.model()
        adapter = registry.load("modalities", self.modality)()
        adapter.adopt(model, processing)
        if self.lora is not None:
            tuned = adapter.attach_lora(
                model, r=self.lora, alpha=self.lora, target_modules="all-linear", seed=0
            )
            return tuned, processing, adapter
        if self.frozen:
            freeze(model, self.frozen)
        return model, processing, adapter

    def _trainer(self) -> Any:
        examples = as_trl(self.rows())
        model, processing = self.model()
        if self.lora is not None:
            config = copy.deepcopy(self.policy()[0].peft_config["default"])
            trainer = dpo_trainer(model, None, processing, examples, config)
        else:
            if self.frozen:
                freeze(model, self.frozen)
            trainer = dpo_trainer(model, self.model()[0], processing, examples, None)
        move_away(trainer.model)
        return trainer


class _Ours:
    """Our policy, its reference cached and (where asked for) in memory, and the pairs."""

    def __init__(self, setting: DPOSetting, *, with_copy: bool) -> None:
        self._setting = setting
        self._model, self._processing, adapter = setting.policy()
        self._pairs = as_pairs(setting.rows())
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            self._cache: CachedReference = cached_reference(Path(folder), adapter, self._model)
            rows = [row for pair in self._pairs for row in (pair.chosen, pair.rejected)]
            self._cache.precompute(rows, len(self._pairs), write=False)
        self._once = time.process_time() - began
        self._copy = copy.deepcopy(self._model) if with_copy and setting.lora is None else self._model
        move_away(self._model)

    def step(self, name: str) -> Step:
        """One variant with an adapter, and so with caches, of its own."""
        adapter = registry.load("modalities", self._setting.modality)()
        adapter.adopt(self._model, self._processing)
        switched(adapter, off=name.removeprefix("mmalign-") if name.startswith("mmalign-") else None)
        in_step = name in ("mmalign-plain", "mmalign+ref")
        reference = Reference(adapter, self._copy) if in_step else self._cache
        objective = pair_objective(adapter, self._model, reference, PairSettings(beta=0.1))
        state: dict[str, Tensor] = {}
        rng = torch.Generator().manual_seed(0)

        def run(_: Any) -> None:
            self._model.zero_grad(set_to_none=True)
            loss = objective(self._pairs, rng).value
            loss.backward()
            state["loss"] = loss.detach()

        return Step(
            run,
            outcome=lambda: {**state, "gradient": flat_gradient(self._model)},
            once_s=0.0 if in_step else self._once,
        )
