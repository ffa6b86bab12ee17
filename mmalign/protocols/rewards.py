"""Rewards: what scores a rollout, and what is trained to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from mmalign.protocols.policies import Likelihood
    from mmalign.types import Rollout, Row, StepReward

__all__ = ["ComparesAnswers", "DifferentiableReward", "Reward", "RewardRecipe", "RewardTrainer"]


@runtime_checkable
class Reward(Protocol):
    """Scores a rollout step by step.  A sequence reward writes one value on the last real step."""

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the per-step reward with its named parts."""
        ...


@runtime_checkable
class DifferentiableReward(Protocol):
    """A reward that is a differentiable function of the answers themselves."""

    def score(self, rows: Sequence[Row], outputs: torch.Tensor) -> torch.Tensor:
        """Reward ``[B]`` of ``outputs`` ``[B, ...]`` (as :class:`Pathwise` gives them), with gradient."""
        ...


@runtime_checkable
class RewardRecipe(Protocol):
    """A reward that the configuration assembles, perhaps from models trained on feedback."""

    name: str

    def reward(
        self, cfg: Any, *, model: Any, judge: Any, extractor: Any, baseline: Mapping[str, float]
    ) -> Reward:
        """The reward that the ``reward`` section describes."""
        ...


@runtime_checkable
class RewardTrainer(Protocol):
    """The models of a reward recipe: made from the start policy, trained on feedback, measured."""

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: Any, *, device: str, dtype: str
    ) -> Any:
        """Fresh reward models that start from the policy ``source``."""
        ...

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> Any:
        """Trained reward models."""
        ...

    def measure(self, model: Any, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Held-out quality, as plain numbers."""
        ...

    def baseline(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """What the start policy earns on average, per feedback type."""
        ...


@runtime_checkable
class ComparesAnswers(Protocol):
    """A :class:`RewardTrainer` that learns from ranked answers instead of labelled segments.

    Its ``measure`` and ``baseline`` are given rankings in the place of rows, and its model's ``loss`` takes rankings.
    """

    def rankings(self, rows: Sequence[Row], cfg: Any, *, part: str, seed: int) -> list[Any]:
        """Ranked answers of ``part`` (``train`` or ``heldout``), from labelled answers or rows with candidates."""
        ...

    def prepare(self, model: Any, rankings: Sequence[Any], cfg: Any) -> None:
        """Called once before training, with the training rankings."""
        ...

    def settle(self, model: Any, rankings: Sequence[Any]) -> None:
        """Called once after training, before the model is measured and saved."""
        ...
