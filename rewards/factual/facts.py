"""Where the facts of a row come from: a column of the user's rows, or a world that knows its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmalign.errors import UserError, nearest
from mmalign.rewards.preference.data import prompt_id
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Row

__all__ = ["POOL", "Facts"]

POOL = 1000
"""How many rows' facts the control ``other`` draws from."""


@dataclass(frozen=True)
class Facts:
    """The facts a reward model is told about a row, as one text.

    Args:
        show: ``own`` tells the row's facts, ``other`` those of another row (a control: the same kind of text, true of
            another picture).
        column: key in ``row.meta`` with a text or a list of texts; where it is absent, the truth in
            ``row.meta["scene"]`` is told.
        limit: at most so many texts.
        shuffle: tell a column's texts in an order drawn from the prompt's id.
        pool: prompt id and texts of the rows that ``other`` draws from.

    Raises:
        UserError: when ``other`` has fewer than two rows to draw from.
    """

    show: Literal["own", "other"] = "own"
    column: str = "captions"
    limit: int = 10
    shuffle: bool = True
    pool: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.show == "other" and len({name for name, _ in self.pool}) < 2:
            raise UserError("facts.show: other needs the facts of at least two rows to draw from")

    def text(self, row: Row) -> str:
        """The facts as one text, sentences separated by spaces.

        Raises:
            UserError: when the row has neither the column nor a scene.
        """
        return " ".join(self._other(row) if self.show == "other" else self.own(row))

    def own(self, row: Row) -> list[str]:
        """The row's own facts."""
        if self.column in row.meta:
            return self._listed(row, row.meta[self.column])
        if "scene" in row.meta:
            from mmalign.worlds.scenes import Scene
            from mmalign.worlds.scenes.telling import tell

            return tell(Scene.from_dict(row.meta["scene"]), self.limit)
        raise UserError(
            f"row {row.id}: has no column {self.column!r} with facts{nearest(self.column, row.meta)}; "
            "name it with reward_model.facts.column"
        )

    def pooled(self, rows: Sequence[Row]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The facts of the first :data:`POOL` prompts of ``rows``, for the control ``other``."""
        found: dict[str, tuple[str, ...]] = {}
        for row in rows:
            name = prompt_id(row)
            if name not in found and len(found) < POOL:
                found[name] = tuple(self.own(row))
        return tuple(found.items())

    def describe(self) -> dict[str, Any]:
        """The fields as JSON."""
        return {
            "show": self.show,
            "column": self.column,
            "limit": self.limit,
            "shuffle": self.shuffle,
            "pool": [[name, list(texts)] for name, texts in self.pool],
        }

    @classmethod
    def described(cls, record: dict[str, Any]) -> Facts:
        """The source that ``describe`` wrote down."""
        pool = tuple((name, tuple(texts)) for name, texts in record["pool"])
        return cls(record["show"], record["column"], record["limit"], record["shuffle"], pool)

    def _listed(self, row: Row, value: Any) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"row {row.id}: {self.column!r} must be a text or a list of texts")
        order = range(len(texts))
        if self.shuffle:
            order = numpy_generator(0, "facts", prompt_id(row)).permutation(len(texts))  # type: ignore[assignment]
        return [texts[int(k)].strip() for k in order][: self.limit]

    def _other(self, row: Row) -> tuple[str, ...]:
        """The facts of a row drawn by the prompt's id; never the prompt's own."""
        name = prompt_id(row)
        others = len(self.pool)
        start = derive_seed(0, "other-facts", name) % others
        return next(
            texts
            for k in range(others)
            for other, texts in [self.pool[(start + k) % others]]
            if other != name
        )
