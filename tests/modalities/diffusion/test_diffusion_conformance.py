"""The suite every modality plug-in passes, on every family: with pictures that are given and with drawn steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmalign.protocols import Borrows, Conditioned, Configurable, Likelihood, Pathwise, Samples, Shows, Tunes
from mmalign.rng import generator
from mmalign.testing.conformance import modality_suite
from mmalign.types import Row

SMALL = {"height": 16, "width": 16}


def options(family: str) -> dict[str, Any]:
    return {} if family == "drawing" else SMALL


def test_every_capability_is_offered(open_family: Callable[..., Any]) -> None:
    adapter = open_family("sd").adapter
    for capability in (Likelihood, Samples, Pathwise, Conditioned, Borrows, Configurable, Shows, Tunes):
        assert isinstance(adapter, capability), capability


def test_conformance_of_pictures(family: str, open_family: Callable[..., Any], pictures: list[Row]) -> None:
    loaded = open_family(family, **options(family))
    ran = modality_suite(loaded.adapter, pictures, loaded.model)
    assert {"batch", "save", "sampling", "blank"} <= set(ran)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_conformance_of_drawn_steps(
    family: str, reduction: str, open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family(
        family, reduction=reduction, guidance_scale=2.0, train_fraction=0.7, **options(family)
    )
    rows = loaded.adapter.sample(loaded.model, prompts, 1, generator(5)).rows
    ran = modality_suite(loaded.adapter, rows, loaded.model)
    assert {"batch", "order", "temperature", "save", "sampling", "blank"} <= set(ran)
