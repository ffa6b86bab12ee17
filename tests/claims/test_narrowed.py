"""A part of a claim: chosen arms bring what they reuse, unknown names are errors."""

from __future__ import annotations

import pytest

from mmalign.claims.plan import find_claim, narrowed
from mmalign.errors import UserError


def test_chosen_arms_keep_what_they_build_on() -> None:
    claim = find_claim("fgaif")
    part = narrowed(claim, ["dense"], ["base1"])
    assert [arm.name for arm in part.arms] == ["sft", "shared", "dense"]
    assert list(part.starts) == ["base1"]
    assert part.statements == claim.statements


def test_nothing_chosen_keeps_all() -> None:
    claim = find_claim("fgaif")
    assert narrowed(claim).arms == claim.arms


def test_unknown_names_are_errors() -> None:
    with pytest.raises(UserError, match=r"--arms: claim fgaif has no 'dens'.*did you mean \"dense\""):
        narrowed(find_claim("fgaif"), ["dens"])
    with pytest.raises(UserError, match="--starts: claim fgaif has no 'basis'"):
        narrowed(find_claim("fgaif"), (), ["basis"])
