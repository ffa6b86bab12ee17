"""ms-swift's grounding tags: names and boxes of ``objects`` written in place of ``<ref-object>`` and ``<bbox>``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmalign.errors import UserError

__all__ = ["grounded"]

_TAG = re.compile("<ref-object>|<bbox>")


def grounded(texts: Sequence[Any], objects: Any, where: str) -> list[Any]:
    """Fill the tags of ``texts`` in order; boxes are written as given (``[x1, y1, x2, y2]``), not rescaled.

    Args:
        texts: the contents of a conversation's turns; anything but text is left alone.
        objects: ``{"ref": [name, ...], "bbox": [[x1, y1, x2, y2], ...]}`` or nothing.
        where: file and row, for the complaint.

    Raises:
        UserError: when there are more tags than objects.
    """
    given = objects if isinstance(objects, Mapping) else {}
    left: dict[str, Iterator[Any]] = {
        "<ref-object>": iter(given.get("ref") or []),
        "<bbox>": iter(given.get("bbox") or []),
    }

    def fill(match: re.Match[str]) -> str:
        try:
            found = next(left[match[0]])
        except StopIteration:
            raise UserError(f"{where}: the text shows more {match[0]} than 'objects' holds") from None
        return str(list(found)) if isinstance(found, list | tuple) else str(found)

    return [_TAG.sub(fill, text) if isinstance(text, str) else text for text in texts]
