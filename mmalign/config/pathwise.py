"""The section of stage ``pathwise``: the reward's gradient through the sampler (ReFL, DRaFT, AlignProp)."""

from __future__ import annotations

from typing import Literal

from mmalign.config.fields import Count, Decay, Float, NonNegative, Positive, PositiveCount, Section, Share

__all__ = ["PathwiseConfig"]


class PathwiseConfig(Section):
    """A reward that can be differentiated is followed through the last steps of the sampler.

    DRaFT-K is ``grad_steps: K``; AlignProp draws K for every step (``grad_steps_spread``); ReFL is one step and a
    ``reward_cap``.  Over how many draws of the last step DRaFT-LV averages and where ReFL stops are settings of the
    adapter.
    """

    max_steps: Count = 100
    """Optimiser steps; 0 skips the stage."""
    rollout_batch_size: PositiveCount = 32
    """Prompts per step, over all processes."""
    per_device_train_batch_size: PositiveCount = 16
    """Answers per forward pass; changes memory and speed, never the result."""
    grad_steps: PositiveCount = 1
    """Gradient flows through this many last steps of the sampler."""
    grad_steps_spread: NonNegative = 0.0
    """Standard deviation of a normal draw around ``grad_steps``, one per optimiser step (at least 1); 0 for none."""
    reward_cap: Float | None = None
    """Answers whose reward reaches this carry no gradient; null for no cap."""
    learning_rate: Positive = 1e-4
    """Peak learning rate."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    lr_scheduler_type: Decay = "constant"
    """What the learning rate does after its rise: stay, or fall to a tenth."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    kl_coef: NonNegative = 0.0
    """Weight of the exact KL from the reference along sampled answers, per nat; needs Gaussian steps."""
    sft_coef: NonNegative = 0.0
    """Weight of the supervised loss on the rows' own answers, which anchors the policy to data."""
    reference: Literal["auto", "adapter_off", "copy"] = "auto"
    """Where the reference of the KL comes from."""
    save_steps: PositiveCount = 10
    """Write a checkpoint every so many steps."""
