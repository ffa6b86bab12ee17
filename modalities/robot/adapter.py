"""The robot modality: policies that act in an environment, an action (or a chunk's denoising step) being a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign.config.options import read_options
from mmalign.errors import UserError
from mmalign.modalities.robot.diffusion_head import DiffusionHead
from mmalign.modalities.robot.environments import Environment, SweepEnvironment
from mmalign.modalities.robot.given import chunks_of, decisions_of
from mmalign.modalities.robot.noise import Noise
from mmalign.modalities.robot.options import RobotOptions
from mmalign.modalities.robot.policy import RobotPolicy, fresh_policy, load_policy, save_policy
from mmalign.modalities.robot.rolling import roll
from mmalign.modalities.robot.scoring import score_chunks, score_decisions
from mmalign.modalities.robot.showing import shown
from mmalign.modalities.robot.steps import Decisions, padded
from mmalign.modalities.robot.transitions import CutsTransitions
from mmalign.types import Batch, LogP, Rollout, Row

__all__ = ["RobotAdapter"]


class RobotAdapter(CutsTransitions):
    """Likelihood, Samples, Transitions, Conditioned, Borrows, Configurable and Shows over :class:`RobotPolicy`.

    A row's answer is an episode.  ``row.steps`` (:class:`Decisions`) is what the policy saw and drew; a row with an
    episode alone (an expert's, a segment) is scored as if the policy had drawn its actions.  A diffusion policy has no
    likelihood of given actions: it scores them with a surrogate, minus its denoising error at every place.
    """

    name = "robot"
    row_streams = True

    def __init__(self, options: RobotOptions | None = None) -> None:
        self.options = options if options is not None else RobotOptions()
        self._environment: tuple[RobotOptions, Environment] | None = None
        self._model: RobotPolicy | None = None

    def configure(self, options: Mapping[str, Any]) -> None:
        """Replace all settings by the defaults with ``options`` over them.

        Raises:
            UserError: for an unknown key (naming the nearest) or a value that does not fit.
        """
        self.options = read_options(RobotOptions, options)

    def environment(self) -> Environment:
        """The environment of the current settings; the same object until they change."""
        if self._environment is None or self._environment[0] != self.options:
            self._environment = (self.options, _environment(self.options))
        return self._environment[1]

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        """Load a saved folder, or ``robot:SEED`` for a fresh policy of the current settings.

        Raises:
            UserError: when ``source`` is neither, or the policy does not fit the environment.
        """
        head, _, seed = source.partition(":")
        space = self.environment().space
        if head == "robot" and (not seed or seed.isdigit()):
            model = fresh_policy(space, self.options, int(seed or 0))
        else:
            model = load_policy(Path(source), space)
        self._model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
        return self._model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json``, which :meth:`load` reads."""
        save_policy(model, Path(folder))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Decisions ``[B, D, ...]`` of rows with ``steps``, or those that a row's episode stands for.

        Raises:
            UserError: for a row without an answer, one that does not fit the policy, or a mixed batch of a diffusion
                policy.
        """
        model = self._known()
        records = [self._decisions(row) for row in rows]
        given = [isinstance(model.head, DiffusionHead) and record.drawn.dim() == 2 for record in records]
        if len(set(given)) > 1:
            odd = rows[given.index(not given[0])]
            raise UserError(
                f"row {odd.id}: a batch of a diffusion policy holds drawn or given episodes, not both"
            )
        observations, drawn, mask = padded(records)
        if given[0]:
            return Batch(tuple(rows), {"observations": observations, "chunks": drawn}, mask)
        inputs = {"observations": observations, "drawn": drawn, "decided": mask}
        return Batch(tuple(rows), inputs, mask.repeat_interleave(model.head.substeps, dim=1))

    def logp(
        self,
        model: nn.Module,
        batch: Batch,
        rng: torch.Generator | None = None,
        *,
        entropy: bool = False,
        hidden: bool = False,
        temperature: float = 1.0,
    ) -> LogP:
        """Log-density ``[B, T]`` in nats of every step; ``temperature`` scales standard deviations and logits.

        ``hidden`` ``[B, T + 1, H]`` is the policy's features beside the observation before each step and after the
        last.  With ``chunks`` in the batch the score is a surrogate, drawn from ``rng``.
        """
        assert isinstance(model, RobotPolicy)
        if "chunks" in batch.inputs:
            return score_chunks(model, batch, rng)
        return score_decisions(model, batch, entropy=entropy, hidden=hidden, temperature=temperature)

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator | Sequence[torch.Generator],
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """Roll ``n`` episodes per row; an episode that ``max_steps`` answer steps do not end is truncated."""
        assert isinstance(model, RobotPolicy)
        if not rows or n < 1 or max_steps < 1:
            raise UserError(f"nothing to sample: {len(rows)} rows, n={n}, max_steps={max_steps}")
        noise = Noise(rng, len(rows), n)
        return roll(model, self.environment(), rows, n, noise, temperature=temperature, max_steps=max_steps)

    def blank(self, row: Row) -> Row:
        """The row with its own actions and observations of zeros."""
        steps = self._decisions(row)
        return replace(row, steps=replace(steps, observations=torch.zeros_like(steps.observations)))

    def borrow(self, row: Row, other: Row) -> Row:
        """The row's own actions under the observations of ``other``, repeated from its start where they run out."""
        steps, seen = self._decisions(row), self._decisions(other).observations
        place = torch.arange(len(steps.observations)) % len(seen)
        return replace(row, steps=replace(steps, observations=seen[place]))

    def show(self, row: Row) -> Mapping[str, Any]:
        """The start as a picture and as text, and the answer's last picture where there is one."""
        return shown(row, self.options)

    def _decisions(self, row: Row) -> Decisions:
        if isinstance(row.steps, Decisions):
            return row.steps
        model = self._known()
        return chunks_of(row, model) if isinstance(model.head, DiffusionHead) else decisions_of(row, model)

    def _known(self) -> RobotPolicy:
        if self._model is None:
            raise UserError("the robot adapter has no policy yet: call load() first")
        return self._model


def _environment(options: RobotOptions) -> Environment:
    if options.environment == "sweep":
        return SweepEnvironment(options)
    from mmalign.modalities.robot.gymnasium_view import GymnasiumEnvironment

    return GymnasiumEnvironment(options)
