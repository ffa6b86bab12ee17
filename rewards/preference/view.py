"""What a reward model is shown of a row: the media, perhaps dimmed, and a prompt, perhaps with facts.

The policy never passes through here: its prompts stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmalign.errors import UserError
from mmalign.protocols import Conditioned, Likelihood
from mmalign.types import Row

__all__ = ["RIVAL", "FactTexts", "View", "dimmed"]

RIVAL = "{prompt}\n\nAnother answer: {rival}"
"""How a pairwise model is shown the other answer."""


class FactTexts(Protocol):
    """Gives the facts that a reward model may read about a row (see ``mmalign.rewards.factual``)."""

    def text(self, row: Row) -> str:
        """The facts as one text; empty where there are none."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it takes to make the same source again, as JSON."""
        ...


@dataclass(frozen=True)
class View:
    """Turns a row into the row that the reward model reads.

    Args:
        adapter: the modality.
        media_scale: 1 shows media as they are, 0 blanks them, between: images at that share of their resolution.
        facts: adds facts to the prompt; ``None`` for none.
        facts_template: how, with ``{prompt}`` and ``{facts}``.
        rival_template: how a rival answer is shown, with ``{prompt}`` and ``{rival}``.
    """

    adapter: Likelihood
    media_scale: float = 1.0
    facts: FactTexts | None = None
    facts_template: str = "{prompt} {facts}"
    rival_template: str = RIVAL

    def __post_init__(self) -> None:
        needed = {"facts_template": "{facts}", "rival_template": "{rival}"}
        for name, hole in needed.items():
            text = getattr(self, name)
            if "{prompt}" not in text or hole not in text:
                raise UserError(f"{name}: expected '{{prompt}}' and '{hole}' in the text, found {text!r}")

    def describe(self) -> dict[str, Any]:
        """What it takes to make the same view again, as JSON."""
        return {
            "media_scale": self.media_scale,
            "facts": None if self.facts is None else self.facts.describe(),
            "facts_template": self.facts_template,
            "rival_template": self.rival_template,
        }

    def __call__(self, row: Row, rival: Row | None = None) -> Row:
        """The row as the reward model reads it, beside ``rival``'s answer where one is given."""
        seen = dimmed(self.adapter, row, self.media_scale)
        facts = self.facts.text(row) if self.facts is not None else ""
        if facts:
            seen = replace(seen, prompt=_filled(seen, self.facts_template, {"{facts}": facts}))
        if rival is not None:
            if not isinstance(rival.completion, str):
                raise UserError(f"row {rival.id}: compare: text needs answers in words; use compare: states")
            seen = replace(seen, prompt=_filled(seen, self.rival_template, {"{rival}": rival.completion}))
        return seen


def dimmed(adapter: Likelihood, row: Row, scale: float) -> Row:
    """The row with its media blanked (scale 0) or its images at a share of their resolution.

    Raises:
        UserError: when the modality cannot blank, or a medium is no image and ``scale`` lies between 0 and 1.
    """
    if scale == 1.0 or not row.media:
        return row
    if scale > 0.0:
        return replace(row, media=tuple(_coarse(item, scale, row.id) for item in row.media))
    if not isinstance(adapter, Conditioned):
        raise UserError(f"modality {adapter.name!r} has no blank(row), which media_scale 0 needs")
    return adapter.blank(row)


def _coarse(item: Any, scale: float, row_id: str) -> Any:
    from PIL import Image

    image = Image.open(item).convert("RGB") if isinstance(item, str) else item
    if not isinstance(image, Image.Image):
        kind = type(item).__name__
        raise UserError(f"row {row_id}: media_scale {scale} needs images, found {kind}; 0 blanks any media")
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


def _filled(row: Row, template: str, values: Mapping[str, str]) -> Any:
    """The prompt with ``template`` around its text: a string, or the last user message's text."""
    if isinstance(row.prompt, str):
        return _text(template, row.prompt, values)
    turns = [dict(turn) for turn in row.prompt] if isinstance(row.prompt, list | tuple) else []
    last = next((turn for turn in reversed(turns) if turn.get("role") == "user"), None)
    if last is None:
        raise UserError(f"row {row.id}: facts go into a prompt of words or messages, found {row.prompt!r}")
    content = last["content"]
    if isinstance(content, str):
        last["content"] = _text(template, content, values)
        return turns
    before, after = template.split("{prompt}", 1)
    parts = [{"type": "text", "text": _text("{prompt}" + after, "", values)}]
    lead = [{"type": "text", "text": _text(before + "{prompt}", "", values)}] if before else []
    last["content"] = [*lead, *content, *parts]
    return turns


def _text(template: str, prompt: str, values: Mapping[str, str]) -> str:
    """Fill the holes in one pass, so that a prompt that itself holds braces stays as it is."""
    pieces = {"{prompt}": prompt, **values}
    out, rest = "", template
    while rest:
        hole = next((name for name in pieces if rest.startswith(name)), None)
        out += pieces[hole] if hole else rest[0]
        rest = rest[len(hole) :] if hole else rest[1:]
    return out
