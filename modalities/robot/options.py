"""Settings of the robot adapter (``model.options``, and ``evaluate.options`` while answers are evaluated)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from mmalign.config.fields import Bool, Positive, PositiveCount, Section

__all__ = ["RobotOptions"]


class RobotOptions(Section):
    """The environment, and what a fresh policy is made of; a saved policy keeps its own make."""

    environment: str = "sweep"
    """``sweep``, or ``gymnasium:ID`` for any registered environment with a box of numbers or pixels;
    ``gymnasium:MODULE:ID?KEY=VALUE`` imports what registers it and passes arguments."""
    observe: Literal["vector", "pixels"] = "vector"
    """What the policy sees: the environment's vector, or its picture."""
    max_episode_steps: PositiveCount | None = None
    """Time limit in environment steps; null is the environment's own (sweep: 80)."""
    time_in_observation: Bool = True
    """Append the share of the time that is gone to vectors of ``gymnasium`` environments (sweep always has it), so that
    an end by the time limit is foreseeable and worth nothing more, as the advantage takes it to be."""
    stop_on_success: Bool = True
    """Sweep: an episode ends when it succeeds; else it goes on to the time limit."""
    embodiment: str | None = None
    """Sweep: act with this embodiment whatever the row says; null is the row's own."""
    keep_pixels: Bool = False
    """Keep the pictures of ``gymnasium`` episodes for clips (slow); sweep draws them afterwards."""
    policy: Literal["gaussian", "tokens", "diffusion"] = "gaussian"
    """Gaussian actions, one token per number of an action (bins), or chunks of actions by denoising."""
    squash: Literal["clip", "tanh"] = "clip"
    """How a Gaussian number is brought into [-1, 1]; the density is that of the number itself."""
    action_std: Positive = 0.3
    """Standard deviation of Gaussian actions at temperature 1, in halves of the action's range."""
    learn_std: Bool = False
    """Train it, one per number of the action; the exact KL then does not hold, and is refused."""
    bins: PositiveCount = 11
    """Values a token can take, evenly from -1 to 1."""
    chunk: PositiveCount = 4
    """Actions drawn at once by ``diffusion``, all of them carried out."""
    denoise_steps: PositiveCount = 6
    """Denoising steps per chunk; each counts as a step of the answer."""
    min_std: Positive = 0.1
    """Least standard deviation of a denoising step, so that every step has a density and explores."""
    width: PositiveCount = 128
    """Width of the layers."""
    layers: PositiveCount = 2
    """Layers below the action's own."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        head, colon, name = self.environment.partition(":")
        if self.environment != "sweep" and not (head == "gymnasium" and colon and name):
            raise ValueError(f"environment: expected sweep or gymnasium:ID, found {self.environment!r}")
        if self.policy == "tokens" and self.bins < 2:
            raise ValueError("bins: a token needs at least 2 values")
        return self
