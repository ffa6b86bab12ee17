"""From scores per segment and type to a dense reward: the one place where feedback becomes reward.

The FGAIF reward models and the label oracle both end here, so two arms that use them differ in
where the scores come from and in nothing else.

    r_t = sum_l sum_i 1[t = T_i] w_l f(R_l(s_i)),   T_i = last step of segment i

Reference: FGAIF (Jing and Du, 2024, arXiv:2404.05046) after Fine-Grained RLHF (Wu et al., 2023,
arXiv:2306.01693).

Differs from paper: a repeated segment earns nothing and pays a penalty; ``length`` offers three
forms of ``f`` under which saying more does not pay by itself (the paper's ``f`` is the identity).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmalign.errors import UserError, nearest
from mmalign.rewards.placing import complete_segments, last_steps, place, same_text
from mmalign.types import Rollout, StepReward

__all__ = ["LENGTH_MODES", "TYPES", "Scores", "Shaping", "repeated_segments", "shape"]

TYPES = ("object", "attribute", "relation")
"""FGAIF's three hallucination types."""

LENGTH_MODES = ("reference", "errors", "centred", "mean")
"""The forms of ``f``; see ``Shaping.length``."""

Scores = Sequence[Sequence[Mapping[str, float | None]]]
"""Row, segment, type -> score in [-1, 1]; ``None`` or absent where the type is not applicable."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """How segment scores become rewards; shared by every arm of a comparison.

    Args:
        weights: weight ``w_l`` of every type; a type that is left out is ablated.
        length: ``reference`` pays the score ``s`` itself, so every clean segment pays and longer
            answers earn more; ``errors`` pays ``(s - 1) / 2`` in [-1, 0], so a clean segment earns 0
            and an error costs; ``centred`` pays ``s - baseline_l``, so a segment as good as the start
            policy's average earns 0; ``mean`` divides by the number of applicable segments of the
            type in the answer, so the total stays in [-w, w] at any length.
        baseline: per type, the mean score of the start policy's applicable segments (``centred``).
        repeat_penalty: what a segment that repeats an earlier one of the same answer costs.
        placement: ``dense``, or ``sequence`` to pay the same total on the last real step.

    Raises:
        UserError: on an unknown length mode or placement, or ``centred`` without baselines.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(TYPES, 1.0))
    length: Literal["reference", "errors", "centred", "mean"] = "reference"
    baseline: Mapping[str, float] = field(default_factory=dict)
    repeat_penalty: float = 0.5
    placement: Literal["dense", "sequence"] = "dense"

    def __post_init__(self) -> None:
        if self.length not in LENGTH_MODES:
            raise UserError(
                f"length: {self.length!r} is not one of {LENGTH_MODES}{nearest(self.length, LENGTH_MODES)}."
            )
        if self.placement not in ("dense", "sequence"):
            raise UserError(f"placement: {self.placement!r} is neither 'dense' nor 'sequence'.")
        missing = [name for name in self.weights if name not in self.baseline]
        if self.length == "centred" and missing:
            raise UserError(
                f"length 'centred' needs baseline for {missing}: the mean label of the start policy."
            )


def repeated_segments(
    rollout: Rollout, facts: Sequence[Sequence[frozenset[Hashable]]] | None = None
) -> list[list[bool]]:
    """Say of every segment whether it repeats what the same answer already said.

    A segment repeats when its text was said before or, where ``facts`` (row, segment -> set of fact
    keys) are given, when it states at least one fact and no new one.
    """
    result = []
    for b, row in enumerate(rollout.rows):
        texts: set[str] = set()
        known: set[Hashable] = set()
        flags = []
        for k, segment in enumerate(row.segments):
            text = same_text(segment.text)
            stated = facts[b][k] if facts is not None else frozenset()
            flags.append(bool(text and text in texts) or bool(stated and stated <= known))
            texts.add(text)
            known |= stated
        result.append(flags)
    return result


def shape(
    rollout: Rollout,
    scores: Scores,
    shaping: Shaping,
    facts: Sequence[Sequence[frozenset[Hashable]]] | None = None,
) -> StepReward:
    """Write every segment's score on its last step.

    A segment whose type is not applicable gets exactly 0 for that type, a repeated one 0 for every
    type plus ``-repeat_penalty`` under ``repeat``, and a cut-off last segment nothing at all.

    Args:
        rollout: what the policy said, with segment spans recorded at generation.
        scores: row, segment, type -> score in [-1, 1] or ``None``.
        shaping: weights, length mode, repeat penalty and placement.
        facts: row, segment -> fact keys, to find repetitions in other words.

    Returns:
        ``StepReward`` with one part per type and ``repeat``.

    Raises:
        ValueError: when the scores do not match the rollout's segments.
    """
    complete = complete_segments(rollout)
    repeats = repeated_segments(rollout, facts)
    entries: dict[str, list[tuple[int, int, float]]] = {name: [] for name in (*shaping.weights, "repeat")}
    ends = last_steps(rollout.mask)
    for b, row in enumerate(rollout.rows):
        if len(scores[b]) != len(row.segments):
            raise ValueError(f"row {row.id!r} has {len(row.segments)} segments but {len(scores[b])} scores")
        live = [k for k in range(len(row.segments)) if complete[b][k]]
        at = {k: ends[b] if shaping.placement == "sequence" else row.segments[k].end - 1 for k in live}
        for k in live:
            if repeats[b][k]:
                entries["repeat"].append((b, at[k], -shaping.repeat_penalty))
        fresh = [k for k in live if not repeats[b][k]]
        for name, weight in shaping.weights.items():
            said = [(k, value) for k in fresh if (value := scores[b][k].get(name)) is not None]
            entries[name] += [(b, at[k], weight * _pay(value, name, len(said), shaping)) for k, value in said]
    parts = {name: place(rollout.mask, items) for name, items in entries.items()}
    return StepReward(per_step=sum(parts.values()), parts=parts)  # type: ignore[arg-type]


def _pay(score: float, name: str, count: int, shaping: Shaping) -> float:
    if shaping.length == "errors":
        return (score - 1.0) / 2.0
    if shaping.length == "centred":
        return score - shaping.baseline[name]
    return score / count if shaping.length == "mean" else score
