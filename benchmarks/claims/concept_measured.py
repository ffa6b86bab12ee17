"""What personalisation is measured by: the thing's look, other objects of a prompt, and what must not have moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["ACCESSORIES", "likeness", "measure_concept"]

ACCESSORIES = tuple(
    (color, cls) for color in ("green", "blue", "yellow") for cls in ("circle", "triangle", "cross")
)
"""Other objects of the test prompts; none is a square or of the class's colour."""
EACH = 24
"""Pictures of each prompt."""


def measure_concept(stage: str | None = "personalise") -> Callable[[RunContext], None]:
    """A job that draws ``a <word> square and a <colour> <shape>`` and ``a <word> square`` and writes ``measured.json``.

    ``accessory/template`` and ``accessory/network``: share of pictures in which the other object is there, by each
    detector.  ``subject`` and ``subject/alone``: mean :func:`likeness` with and without another object asked for.
    ``moved``: largest change of any weight beside the keys and values that read prompts.  ``cosine``: of the new word's
    prompt and its class's.  The start is asked for the class itself.

    Args:
        stage: whose policy; ``None`` for the start.
    """

    def job(ctx: RunContext) -> None:
        from mmalign.data.jsonl import write_json
        from mmalign.rng import generator
        from mmalign.types import Row
        from mmalign.worlds.drawings import DETECTORS, detect, pixels_of

        cfg = ctx.cfg.personalise
        model = ctx.load_model(str(ctx.stage_dir(stage) / "final") if stage else ctx.base_model())
        word = cfg.word if stage else cfg.class_word
        asked = [Row(f"with-{k}", f"a {word} square and a {c} {s}") for k, (c, s) in enumerate(ACCESSORIES)]
        alone = [Row("alone", f"a {word} square")]
        drawn: dict[str, Sequence[Row]] = {}
        for name, rows, n in (("with", asked, EACH), ("alone", alone, 2 * EACH)):
            rng = generator(ctx.cfg.seed, "claims", "concept", name)
            drawn[name] = ctx.adapter.sample(model, rows, n, rng).rows  # type: ignore[attr-defined]
        wanted = [thing for thing in ACCESSORIES for _ in range(EACH)]
        found: dict[str, float] = {}
        for detector in DETECTORS:
            readings = detect([row.completion for row in drawn["with"]], detector)
            seen = [
                any((o.color, o.cls) == t for o in r.objects) for r, t in zip(readings, wanted, strict=True)
            ]
            found[f"accessory/{detector}"] = float(np.mean(seen))
        for name, key in (("with", "subject"), ("alone", "subject/alone")):
            found[key] = float(np.mean([likeness(pixels_of(row.completion)) for row in drawn[name]]))
        found |= _weights(ctx, model) if stage else {"moved": 0.0}
        write_json(ctx.run_dir / "measured.json", found)

    return job


def likeness(pixels: NDArray[np.uint8]) -> float:
    """``1 - RMS / 255`` of the place of the picture that is most like the thing, within two pixels in each cell."""
    from mmalign.benchmarks.claims.concept_world import CELL, concept_array

    inner = 12
    template = _thing(concept_array(0), inner)
    best = np.inf
    for y in range(pixels.shape[0] - inner + 1):
        for x in range(pixels.shape[1] - inner + 1):
            if abs(y % CELL - 2) <= 2 and abs(x % CELL - 2) <= 2:
                gap = pixels[y : y + inner, x : x + inner].astype(float) - template
                best = min(best, float(np.sqrt((gap**2).mean())))
    return 1.0 - best / 255.0


def _thing(picture: NDArray[np.uint8], inner: int) -> NDArray[np.float64]:
    """The square itself, cut out of the picture."""
    bright = np.argwhere(picture.max(2) > 130)
    top, left = bright.min(0)
    return picture[top : top + inner, left : left + inner].astype(float)


def _weights(ctx: RunContext, model: Any) -> dict[str, float]:
    """What moved beside what learns, and the cosine of the word with its class."""
    start = dict(ctx.load_model(ctx.base_model()).named_parameters())
    moved = 0.0
    for name, value in model.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            continue
        before = start[name]
        moved = max(moved, float((value.detach()[: len(before)] - before.detach()).abs().max()))
    cfg = ctx.cfg.personalise
    states = ctx.adapter.prompt_states(model, [cfg.filled(cfg.prompt), cfg.filled(cfg.class_prompt)])  # type: ignore[attr-defined]
    return {"moved": moved, "cosine": float((states[0] * states[1]).sum().detach())}
