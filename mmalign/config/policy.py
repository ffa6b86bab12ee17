"""The section of the online stages: PPO with a critic, and GRPO or RLOO without one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from mmalign.config.fields import Bool, Count, Decay, NonNegative, Positive, PositiveCount, Section, Share

__all__ = ["GRPOConfig", "PPOConfig"]


class PPOConfig(Section):
    """Online reinforcement learning on dense rewards.  Defaults: docs/config.md, "Policy defaults"."""

    max_steps: Count = 100
    """Steps of sample, reward, update; 0 skips the stage."""
    rollout_batch_size: PositiveCount = 32
    """Prompts per step, over all processes."""
    num_generations: PositiveCount = 1
    """Answers per prompt; GRPO and RLOO need at least 2."""
    per_device_train_batch_size: PositiveCount = 16
    """Answers per forward pass; changes memory and speed, never the result."""
    num_ppo_epochs: PositiveCount = 4
    """Passes over each step's answers."""
    num_minibatches: PositiveCount = 4
    """Optimiser updates per pass."""
    learning_rate: Positive = 1e-5
    """Peak learning rate of the policy (1e-6 for all weights of a large model, 1e-5 for LoRA)."""
    critic_learning_rate: Positive = 5e-5
    """Peak learning rate of the critic, 3 to 10 times the policy's."""
    critic_warmup_steps: Count = 10
    """First steps in which only the critic learns."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    lr_scheduler_type: Decay = "constant"
    """What the learning rate does after its rise: stay, or fall to a tenth."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    gamma: Share = 1.0
    """Discount per step."""
    lam: Share = 0.95
    """GAE's lambda: 1 trusts rewards, 0 trusts the critic."""
    cliprange: Positive | None = None
    """Half width of the ratio's clip, below 1 (and above, unless ``cliprange_high``); null takes what suits the
    score's reduction: 0.2 for tokens and other sums, ``1e-4 * sqrt(16384 / dims)`` for a mean over ``dims`` numbers."""
    cliprange_high: Positive | None = None
    """Width of the clip above 1; null for ``cliprange``."""
    dual_clip: Positive | None = None
    """Bound on the ratio where the advantage is negative (above 1); null for none."""
    cliprange_value: Positive | None = 0.2
    """How far a value may move from the old one, in units of reward; null for no clip."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss; the critic is a separate network."""
    kl_coef: NonNegative = 0.05
    """Weight of the KL divergence from the reference, per nat."""
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "k1"
    """log-ratio, half its square, ``exp(-x) - 1 + x``; or the exact KL, where steps are Gaussian."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Whether the KL is subtracted from each step's reward or added to the loss."""
    kl_ratio_correction: Bool = True
    """Multiply a loss-side KL by the per-step ratio, which makes its gradient that of the KL."""
    kl_target: Positive | None = None
    """Steer ``kl_coef`` towards this many nats per answer; null keeps it fixed."""
    kl_horizon: Positive = 10000.0
    """Answers over which a steered ``kl_coef`` adapts."""
    kl_budget: Positive | None = None
    """Make no update while the answers' KL from the reference, in nats per answer, is above this; null for no limit.
    Arms with one budget end at about the same distance from their start."""
    kl_stop: Positive = 0.1
    """End a step's update early once the approximate KL per step, in nats, is above this."""
    whiten_advantages: Bool = True
    """Give advantages mean 0 and standard deviation 1 over the step's answers (GAE only)."""
    whiten_rewards: Bool = False
    """Divide rewards by their standard deviation over the step's answers."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus, per nat."""
    temperature: Positive = 1.0
    """Temperature of sampling and of the log-probabilities in the loss."""
    max_completion_length: PositiveCount = 64
    """Longest answer, in steps."""
    advantage: Literal["gae", "grpo", "rloo"] = "gae"
    """``gae`` uses a critic; ``grpo`` and ``rloo`` compare answers to one prompt."""
    dense_advantages: Bool = True
    """Without a critic: credit each step with the reward still to come, not with the answer's total."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """How steps are averaged (over the global batch, per answer, by a constant length, over the batch) under the clip;
    or another use of the ratio: CISPO, SAPO, LUSPO, VESPO."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio per token, or one per answer: the geometric mean of its tokens' (GSPO)."""
    sapo_temperature_pos: Positive = 1.0
    """Steepness of SAPO's gate where the advantage is positive."""
    sapo_temperature_neg: Positive = 1.05
    """The same where it is not."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What group advantages are divided by: the group's standard deviation, the batch's, or nothing."""
    reference: Literal["adapter_off", "copy", "cache", "auto"] = "auto"
    """Where the reference comes from; ``auto`` is ``adapter_off`` with LoRA and ``copy`` without."""
    reuse_sampling_logp: Bool = True
    """Take old log-probabilities from the sampler where no critic needs the forward pass (float32 only)."""
    save_steps: PositiveCount = 10
    """Write a checkpoint every so many steps."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.advantage != "gae" and self.num_generations < 2:
            raise ValueError(
                f"num_generations: {self.advantage} compares answers to one prompt, so it needs at least 2, "
                f"got {self.num_generations}"
            )
        if self.kl_placement == "loss" and self.kl_estimator == "k1" and not self.kl_ratio_correction:
            raise ValueError(
                "kl_estimator: k1 in the loss without kl_ratio_correction has an expected gradient of 0; "
                "set kl_ratio_correction: true or use k2"
            )
        if self.loss_type == "cispo" and self.cliprange_high is None:
            raise ValueError("cliprange_high: cispo bounds the ratio itself by it; set one, such as 5")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip: expected a number above 1, got {self.dual_clip}")
        return self


class GRPOConfig(PPOConfig):
    """:class:`PPOConfig` with the defaults of group-relative methods: no critic, one pass, KL in the loss."""

    num_generations: PositiveCount = 8
    """Answers per prompt; at least 2."""
    num_ppo_epochs: PositiveCount = 1
    """Passes over each step's answers."""
    num_minibatches: PositiveCount = 1
    """Optimiser updates per pass."""
    rollout_batch_size: PositiveCount = 8
    """Prompts per step, over all processes."""
    kl_coef: NonNegative = 0.04
    """Weight of the KL divergence from the reference, per nat."""
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "k3"
    """log-ratio, half its square, ``exp(-x) - 1 + x``; or the exact KL, where steps are Gaussian."""
    kl_placement: Literal["reward", "loss"] = "loss"
    """Whether the KL is subtracted from each step's reward or added to the loss."""
    advantage: Literal["gae", "grpo", "rloo"] = "grpo"
    """``gae`` uses a critic; ``grpo`` and ``rloo`` compare answers to one prompt."""
