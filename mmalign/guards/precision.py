"""The alarm on a learned success signal: are its claims right on the states that the policy visits?"""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.errors import UserError
from mmalign.stats.intervals import wilson

__all__ = ["precision_alarm"]


def precision_alarm(
    claimed: Sequence[float], false: Sequence[float], floor: float = 0.7
) -> tuple[bool, float | None]:
    """Whether the precision of audited claims is below ``floor`` for certain (95 % Wilson interval), and the precision.

    Args:
        claimed: number of claims of each audited step.
        false: how many of them were wrong.
        floor: the least precision that is acceptable.

    Returns:
        alarm, precision; no claim gives no alarm and no precision.

    Raises:
        UserError: when a step has more wrong claims than claims.
    """
    if any(b > a + 1e-9 for a, b in zip(claimed, false, strict=True)):
        raise UserError("precision_alarm: more wrong claims than claims")
    total, wrong = round(sum(claimed)), round(sum(false))
    if not total:
        return False, None
    interval = wilson(total - wrong, total)
    assert interval.ci_high is not None
    return interval.ci_high < floor, (total - wrong) / total
