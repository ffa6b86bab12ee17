"""The configured judge and the extractor of the atomic facts it verifies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmalign import registry

if TYPE_CHECKING:
    from mmalign.feedback.facts import Extractor
    from mmalign.pipeline.context import RunContext
    from mmalign.protocols import Judge

__all__ = ["build_judge"]


def build_judge(ctx: RunContext) -> tuple[Judge, Extractor]:
    """Load judge and extractor by the names in the ``feedback`` section."""
    cfg = ctx.cfg.feedback
    options: Mapping[str, Any] = cfg.judge_options
    if cfg.label_noise:
        options = {**options, "label_noise": cfg.label_noise, "seed": ctx.cfg.seed}
    judge: Judge = registry.load("judges", cfg.judge, key="feedback.judge")(**options)
    extractor: Extractor = registry.load("extractors", cfg.extractor, key="feedback.extractor")()
    return judge, extractor
