"""How a preference reward model reads, scores and learns: plain values, kept beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmalign.errors import UserError, nearest

__all__ = ["LossName", "Options", "Pool", "Read"]

LossName = Literal["bradley_terry", "plackett_luce", "pairwise", "cost"]
Pool = Literal["last", "sum", "mean"]
Read = Literal["state", "surprise", "likelihood"]

_KNOWN = {
    "loss": ("bradley_terry", "plackett_luce", "pairwise", "cost"),
    "pool": ("last", "sum", "mean"),
    "read": ("state", "surprise", "likelihood"),
    "head": ("linear", "mlp"),
    "compare": ("states", "text"),
}


@dataclass(frozen=True)
class Options:
    """Settings of :class:`~mmalign.rewards.preference.model.PreferenceRewardModel`.

    Args:
        loss: ``bradley_terry`` over all pairs of a prompt's candidates, ``plackett_luce`` over the whole ranking, or
            ``pairwise``, a model of one answer against another; ``cost``: order and safety of answers, minus the
            score being a cost above 0 where an answer is unsafe (Dai et al., 2023, arXiv:2310.12773).
        pool: ``last`` reads the state after the last real step; ``sum`` and ``mean`` read every step and add or
            average the values (Christiano et al., 2017, arXiv:1706.03741, score segments of behaviour so).
        read: ``state`` after a step; ``surprise``: the states before and after it, its log-probability and the
            entropy it was drawn from, under the trunk; ``likelihood``: those two numbers alone, which few comparisons
            suffice to learn from (both need ``sum`` or ``mean``).
        head: ``linear`` or ``mlp``.
        compare: how ``pairwise`` sees both answers: their ``states``, or the rival's ``text`` in the prompt.
        members: size of the ensemble.
        shared_trunk: the members share one trunk.
        train_trunk: false trains heads only; what they read is then computed once per training answer.
        bootstrap: every member learns from its own 63 % of the prompts.
        centering: Bradley-Terry's ``c (r_w + r_l)^2``.
        lm_coef: weight of the likelihood of each prompt's best answer under a trained trunk.
        sign_coef: weight of the sign terms of ``cost``.

    Raises:
        UserError: on an unknown value, or values that do not go together.
    """

    loss: LossName = "bradley_terry"
    pool: Pool = "last"
    read: Read = "state"
    head: Literal["linear", "mlp"] = "linear"
    compare: Literal["states", "text"] = "states"
    members: int = 1
    shared_trunk: bool = True
    train_trunk: bool = True
    bootstrap: bool = False
    centering: float = 0.0
    lm_coef: float = 0.0
    sign_coef: float = 1.0

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name}: {value!r} is not one of {known}{nearest(value, known)}.")
        if self.members < 1:
            raise UserError(f"members: expected at least 1, got {self.members}.")
        if self.read != "state" and self.pool == "last":
            raise UserError(f"read: {self.read} reads every step, so it needs pool: sum or mean.")
        if self.centering and self.loss != "bradley_terry":
            raise UserError(f"centering belongs to bradley_terry, not to {self.loss}.")
        if self.lm_coef and not self.train_trunk:
            raise UserError("lm_coef trains the trunk; with train_trunk: false it has nothing to train.")
        if self.compare == "text" and self.loss != "pairwise":
            raise UserError(f"compare: text belongs to pairwise, not to {self.loss}.")
        if self.members > 1 and self.head == "linear" and self.shared_trunk and not self.bootstrap:
            raise UserError("members: linear heads on one trunk learn the same; set bootstrap, or head: mlp.")
        if self.bootstrap and self.members == 1:
            raise UserError("bootstrap needs an ensemble; set members to 2 or more.")

    @property
    def trunk_names(self) -> list[str]:
        """``["shared"]``, or a trunk per member: ``["0", "1", ...]``."""
        return ["shared"] if self.shared_trunk else [str(k) for k in range(self.members)]
