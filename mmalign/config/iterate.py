"""The section of stage ``iterate``: collect, label, select, update, evaluate, again and again."""

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

__all__ = ["IterateConfig"]

_UPDATES_FOR = {
    "best": ("nll", "superhf", "ift"),
    "top": ("nll", "superhf", "ift"),
    "threshold": ("nll", "superhf", "ift"),
    "random": ("nll", "superhf", "ift"),
    "data": ("nll", "ift"),
    "best_worst": ("pair", "d3po"),
    "data_policy": ("pair",),
    "all": ("nash",),
}
_FROM_DATA = ("data", "data_policy")


class IterateConfig(Section):
    """One loop for RAFT, SuperHF, SPIN, online DPO, Nash-MD, IFT and self-rewarding: docs/objectives/iterative.md."""

    iterations: Count = 4
    """Rounds of collect, label, select, update, evaluate; 0 skips the stage."""
    updates: PositiveCount = 16
    """Optimiser steps per round."""
    prompts: PositiveCount = 64
    """Training prompts per round."""
    num_generations: PositiveCount = 8
    """Answers drawn per prompt (K)."""
    mixture: Share = 0.0
    """Opponent of ``nash``: how much of the reference is mixed into the policy, geometrically; 0 is self-play."""
    label: Literal["reward", "judge", "data"] = "reward"
    """What ranks answers: the section ``reward``, a comparing judge, or that the row's own answer is the better one."""
    judge: Literal["configured", "policy"] = "configured"
    """Who compares: the judge of section ``feedback``, or the policy itself as it is at the round's start."""
    judge_template: str = (
        "{prompt}\n\nAnswer 1: {first}\n\nAnswer 2: {second}\n\nWhich answer is better, 1 or 2?"
    )
    """What the policy is asked as its own judge."""
    judge_answers: tuple[str, str] = ("1", "2")
    """What it answers for the first and for the second; they must differ in their first step."""
    select: Literal["best", "top", "threshold", "random", "best_worst", "data", "data_policy", "all"] = "best"
    """Best of each prompt, best of all (a share 1/K), those above a threshold, one at random (a control), best against
    worst, the data's answers, the data's against the policy's, all."""
    threshold: Float = 0.0
    """Smallest score that ``threshold`` keeps."""
    min_gap: NonNegative = 0.0
    """``best_worst`` drops pairs whose scores differ by no more than this."""
    length_penalty: NonNegative = 0.0
    """Taken off an answer's score per step (or by the logarithm of its steps), for choice and label alike."""
    length_penalty_kind: Literal["linear", "log"] = "linear"
    """``linear``: c times the number of steps; ``log``: c times its logarithm."""
    shuffle_labels: Bool = False
    """Control arm: permute the scores (for ``data``, the answers) among all answers of the round."""
    update: Literal["nll", "superhf", "pair", "d3po", "ift", "nash"] = "nll"
    """Likelihood, likelihood with a KL prior, the pair loss of section ``dpo``, a preference learnt at every step
    (D3PO), IFT, or Nash-MD's policy gradient."""
    reference: Literal["initial", "previous", "ema"] = "initial"
    """The policy before training, at the round's start, or an average of those at all rounds' starts."""
    ema_decay: Share = 0.5
    """Weight of the old average when a round starts (``reference: ema``)."""
    kl_coef: NonNegative = 0.05
    """Weight of the KL to the reference of ``superhf`` and ``nash`` (tau), per nat."""
    d3po_beta: Positive = 0.1
    """Steepness of ``d3po`` per nat of a step's log-probability as the modality reduces it."""
    d3po_clip: Share | None = 0.1
    """Half width of the clip of each step's ratio to the reference (``d3po``); it caps the margin; null for none."""
    ift_lambda: Share = 0.2
    """Share of the model's own prediction in what it reads back (``ift``)."""
    ift_gamma: Share = 0.95
    """How far a step is charged with the losses after it (``ift``); 0 weights all steps equally."""
    ift_detach: Bool = False
    """Stop the gradient through the weights of ``ift`` (the released code does not)."""
    temperature: Positive = 1.0
    """Temperature of the answers."""
    max_completion_length: PositiveCount = 64
    """Longest answer, in steps."""
    rollout_batch_size: PositiveCount = 32
    """Prompts answered at once; changes speed and memory, and the draws."""
    batch_size: PositiveCount = 32
    """Answers (for ``pair``: pairs) per optimiser step, over all processes."""
    per_device_train_batch_size: PositiveCount = 16
    """Answers (or pairs) per forward pass and process; changes memory and speed, not the result (but see docs)."""
    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    warmup_ratio: Share = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    lr_scheduler_type: Decay = "constant"
    """What the learning rate does after its rise, over all rounds: stay, or fall to a tenth."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    n_heldout: PositiveCount = 64
    """Validation prompts answered at the end of each round for reward, KL and length."""
    save_steps: PositiveCount = 10
    """Write a checkpoint every so many steps."""

    @property
    def max_steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.iterations * self.updates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        allowed = _UPDATES_FOR[self.select]
        if self.update not in allowed:
            raise ValueError(
                f"update: {self.update} does not go with select: {self.select}, only {', '.join(allowed)}"
            )
        if (self.select in _FROM_DATA) != (self.label == "data"):
            raise ValueError(
                f"label: {self.label} does not go with select: {self.select}; label: data goes with select: data "
                "or data_policy"
            )
        if self.d3po_clip is not None and not 0 < self.d3po_clip < 1:
            raise ValueError(f"d3po_clip: expected between 0 and 1, or null, got {self.d3po_clip}")
        if self.select == "best_worst" and self.num_generations < 2:
            raise ValueError(
                "num_generations: best_worst compares answers to one prompt, so it needs at least 2"
            )
        if self.update == "nash" and self.temperature != 1.0:
            raise ValueError(
                f"temperature: nash is a policy gradient at temperature 1, got {self.temperature}"
            )
        if self.update == "nash" and self.length_penalty:
            raise ValueError(
                "length_penalty: nash learns from probabilities, from which nothing can be taken off"
            )
        if self.update == "superhf" and self.num_generations < 2:
            raise ValueError(
                "num_generations: superhf measures its KL on an answer that was not chosen, so at least 2"
            )
        return self
