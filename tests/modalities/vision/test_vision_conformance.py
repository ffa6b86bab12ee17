"""The suite every modality plug-in passes, on every family."""

from __future__ import annotations

from typing import Any

from mmalign.testing.conformance import modality_suite
from mmalign.types import Row


def test_conformance(loaded: Any, rows: list[Row]) -> None:
    ran = modality_suite(loaded.adapter, rows, loaded.model)
    assert {"batch", "save", "sampling", "blank"} <= set(ran)
