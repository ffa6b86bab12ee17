"""Sequences whose items are made when they are asked for, so that data larger than memory stay on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

__all__ = ["Joined", "Mapped"]

Item = TypeVar("Item")


class Mapped(Sequence[Item], Generic[Item]):
    """``make(source[k])`` for every ``k``; keeps nothing.  A slice is lazy as well."""

    def __init__(self, source: Sequence[Any], make: Callable[[Any], Item]) -> None:
        self._source, self._make = source, make

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return Mapped(self._source[place], self._make)
        return self._make(self._source[place])

    def __iter__(self) -> Iterator[Item]:
        return (self._make(item) for item in self._source)


class Joined(Sequence[Item], Generic[Item]):
    """One sequence after the other."""

    def __init__(self, *parts: Sequence[Item]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return Mapped(range(len(self))[place], self.__getitem__)
        at = range(len(self))[place]
        for part in self._parts:
            if at < len(part):
                return part[at]
            at -= len(part)
        raise IndexError(place)
