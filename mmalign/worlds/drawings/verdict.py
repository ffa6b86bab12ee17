"""What a detector saw, held against what the prompt asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mmalign.worlds.drawings.prompts import Wish
from mmalign.worlds.drawings.scene import stands
from mmalign.worlds.drawings.templates import Reading

__all__ = ["agreement", "judge"]


def _shared(wanted: Iterable[object], found: Iterable[object]) -> int:
    """Size of the intersection of two multisets."""
    return sum((Counter(wanted) & Counter(found)).values())


def judge(wish: Wish, reading: Reading) -> dict[str, int]:
    """Counts of one picture under one detector.

    ``wanted``, ``found``, ``matched``: objects asked for, seen, and seen as asked (colour and class together, each
    counted once); ``color``, ``shape``: the same for colour and class alone.  ``count`` is 1 when as many objects are
    seen as asked for and no cell is unreadable.  ``relation_asked``, ``relation``: 1 when the prompt has a relation,
    and when it holds between objects that are both there.  ``extra`` objects and ``unreadable`` cells were not asked
    for.  ``exact`` is 1 when the picture is what was asked for and nothing else.
    """
    found = [(o.color, o.cls) for o in reading.objects]
    matched = _shared(wish.things, found)
    relation = int(stands(wish, reading.scene))
    unreadable = len(reading.unreadable)
    complete = matched == len(wish.things) == len(found) and not unreadable
    return {
        "wanted": len(wish.things),
        "found": len(found),
        "matched": matched,
        "color": _shared((c for c, _ in wish.things), (c for c, _ in found)),
        "shape": _shared((s for _, s in wish.things), (s for _, s in found)),
        "count": int(len(found) == len(wish.things) and not unreadable),
        "relation_asked": int(bool(wish.relation)),
        "relation": relation,
        "extra": len(found) - matched,
        "unreadable": unreadable,
        "exact": int(complete and (relation or not wish.relation)),
    }


def agreement(first: Reading, second: Reading, cells: int = 4) -> int:
    """In how many of the cells two detectors saw the same: the same object, nothing, or nothing readable."""

    def content(reading: Reading) -> dict[int, tuple[str, str]]:
        seen = {o.row * 2 + o.col: (o.color, o.cls) for o in reading.objects}
        return seen | dict.fromkeys(reading.unreadable, ("unreadable", ""))

    a, b = content(first), content(second)
    return sum(a.get(k) == b.get(k) for k in range(cells))
