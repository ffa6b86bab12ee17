"""The section of stage ``offline_rl``: critics on recorded transitions, then on collected ones."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from mmalign.config.fields import (
    Bool,
    Count,
    Decay,
    Float,
    NonNegative,
    Positive,
    PositiveCount,
    Section,
    Share,
)

__all__ = ["TransitionsConfig"]


class TransitionsConfig(Section):
    """Cal-QL, CQL, SAC, IQL or cloning on single transitions: docs/objectives/cal-ql.md."""

    algorithm: Literal["cal_ql", "cql", "sac", "iql", "bc"] = "cal_ql"
    """``cal_ql`` and ``cql`` hold values of unseen actions down, ``sac`` does not, ``iql`` never asks for them, ``bc``
    clones the recorded actions."""
    offline_steps: Count = 60
    """Steps on recorded transitions alone."""
    online_steps: Count = 0
    """Steps after that, each of which collects first and then learns from both."""
    updates: PositiveCount = 50
    """Gradient updates per step; over the transitions that a step collects this is the update-to-data ratio."""
    episodes: PositiveCount = 1
    """Episodes collected per online step."""
    warmup_episodes: Count = 0
    """Episodes collected before the first online update."""
    temperature: NonNegative = 1.0
    """Of the actions while collecting; 0 takes the mean action."""
    max_episode_steps: PositiveCount = 64
    """Longest collected episode."""
    continuing: Bool = False
    """Without resets: each collected episode starts where the last one ended (the adapter must offer ``Continues``)."""
    reset_every: Count = 0
    """With ``continuing``, put everything back every so many episodes; 0 never does."""
    offline_rows: str = "caption"
    """The world's kind of rows that hold recorded episodes."""
    n_offline: PositiveCount = 256
    """How many of them."""
    start_rows: str = "prompt"
    """The world's kind of rows that collected episodes start from."""
    keep: Share = 1.0
    """Share of the recorded episodes that is learnt from, those with the largest sum of rewards; with ``bc`` that is
    filtered cloning."""
    rewards: Literal["recorded", "configured"] = "recorded"
    """The environment's own reward, or the section ``reward`` (for recorded and collected episodes alike)."""
    reward_scale: Positive = 1.0
    """Rewards are multiplied by this."""
    reward_bias: Float = 0.0
    """Added after that; -1 makes every step cost."""
    gamma: Share = 0.97
    """Discount per step."""
    tail: Literal["zero", "last"] = "zero"
    """What the return of an episode that was cut holds beyond its end: nothing, or its last reward for ever."""
    offline_share: Share = 0.5
    """Share of recorded transitions in the batches of online steps."""
    capacity: PositiveCount = 100_000
    """Collected transitions kept."""
    batch_size: PositiveCount = 128
    """Transitions per update."""
    learning_rate: Positive = 3e-4
    """Of the policy."""
    critic_learning_rate: Positive = 1e-3
    """Of critics, state value and temperature."""
    lr_scheduler_type: Decay = "constant"
    """How both rates fall over the steps of the stage, to a tenth: ``constant`` not at all, ``linear``, ``cosine``."""
    critic_width: PositiveCount = 64
    """Width of both hidden layers of every critic."""
    critics: PositiveCount = 2
    """Critics; the smallest value counts."""
    target_rate: Positive = 0.01
    """How far the target critics move to the present ones at each update."""
    n_actions: PositiveCount = 4
    """Actions drawn per state for targets and regulariser (the papers' code has 10)."""
    backup: Literal["max", "mean", "entropy"] = "max"
    """Next value: the best of the drawn actions, their mean, or the mean less the entropy's cost (SAC)."""
    cql_weight: NonNegative = 1.0
    """Weight of the regulariser (the papers' code has 5)."""
    cql_weight_online: NonNegative | None = None
    """The same in online steps; unchanged when null."""
    bc_weight: NonNegative = 0.0
    """Weight of the likelihood of recorded actions beside the policy's loss, in offline steps."""
    bc_weight_online: NonNegative = 0.0
    """The same in online steps, of recorded and own actions, those alone that a reward came after (return above 0)."""
    alpha: Positive = 0.1
    """Weight of the entropy, at first."""
    tune_alpha: Bool = True
    """Let it move so that the entropy meets ``target_entropy``."""
    target_entropy: Float | None = None
    """Nats; minus the number of action dimensions when null."""
    expectile: Share = 0.8
    """Which expectile of the value over recorded actions ``iql`` learns."""
    awr_temperature: NonNegative = 3.0
    """How sharply ``iql`` prefers recorded actions with a larger advantage."""
    max_grad_norm: NonNegative = 0.0
    """Gradients of all networks together are clipped to this norm; 0 does not."""
    save_steps: PositiveCount = 20
    """Write a checkpoint every so many steps."""

    @property
    def max_steps(self) -> int:
        """Steps of the whole stage."""
        return self.offline_steps + self.online_steps

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reset_every and not self.continuing:
            raise ValueError("reset_every: only with continuing: true, otherwise every episode starts anew")
        if not self.keep:
            raise ValueError("keep: 0 leaves no recorded episode to learn from")
        if self.algorithm == "bc" and self.online_steps:
            raise ValueError("online_steps: bc learns nothing from its own episodes, set it to 0")
        if self.tail == "last" and self.gamma == 1:
            raise ValueError("tail: a last reward that goes on for ever needs gamma below 1")
        return self
