"""The modality-used guard on real families: seeing models pass, blind ones are stopped."""

from __future__ import annotations

from typing import Any

import pytest
from vision_rows import zero_image_features

from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.types import Row


def test_seeing_model_passes(loaded: Any, rows: list[Row]) -> None:
    report = check_modality_used(loaded.adapter, loaded.model, rows)
    assert report.share_blank == 1.0 and report.n == sum(bool(row.media) for row in rows)


def test_blind_model_is_stopped_unless_allowed(loaded: Any, rows: list[Row]) -> None:
    zero_image_features(loaded.model)
    with pytest.raises(UserError, match="the model ignores its media"):
        check_modality_used(loaded.adapter, loaded.model, rows)
    assert check_modality_used(loaded.adapter, loaded.model, rows, allow_unused=True).share_blank == 0.0
