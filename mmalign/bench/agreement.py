"""Whether all variants came to the same numbers; without that no timing is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmalign.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_agreement", "relative_gap"]


def relative_gap(value: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of ``expected``, in float64; whole numbers must be equal (0 or infinity).

    Raises:
        ValueError: on shapes that differ, or an ``expected`` that is zero everywhere: it would prove nothing.
    """
    if value.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(value.shape)} and {tuple(expected.shape)}")
    if not expected.dtype.is_floating_point:
        return 0.0 if bool((value == expected).all()) else float("inf")
    size = float(expected.double().norm())
    if not size > 0:
        raise ValueError("the expected numbers are all zero")
    return float((value.double() - expected.double()).norm()) / size


def check_agreement(
    outcomes: Mapping[str, Mapping[str, Tensor]], tolerance: float, where: str
) -> dict[str, dict[str, float]]:
    """Compare every variant's outcome with the first one's.

    Returns:
        variant -> name of the number -> relative gap.

    Raises:
        UserError: when a gap is above ``tolerance`` or a number is missing; nothing may be reported then.
    """
    first, *others = outcomes
    expected = outcomes[first]
    gaps: dict[str, dict[str, float]] = {}
    for variant in others:
        if set(outcomes[variant]) != set(expected):
            raise UserError(
                f"{where}: {variant} gives {sorted(outcomes[variant])}, {first} gives {sorted(expected)}"
            )
        gaps[variant] = {}
        for name, wanted in expected.items():
            try:
                gap = relative_gap(outcomes[variant][name], wanted)
            except ValueError as error:
                raise UserError(f"{where}: {name} of {variant} against {first}: {error}") from None
            if not gap <= tolerance:
                raise UserError(
                    f"{where}: {name} of {variant} differs from that of {first} by {gap:.2g} (relative), more than "
                    f"{tolerance:g}; they do not do the same work, so no timing is reported"
                )
            gaps[variant][name] = gap
    return gaps
