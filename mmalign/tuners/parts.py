"""What may stand at a site: parts wrap a module's call, know their parameter count and perhaps how to merge.

A part is named by its ``kind`` in the plan of an adapter, which is JSON, so that a saved adapter says all that is
needed to build it again.  A third party adds kinds with :func:`register_part` in the module of its tuner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from mmalign.errors import UserError, nearest

__all__ = [
    "Inner",
    "Part",
    "first_input",
    "make_part",
    "part_class",
    "register_part",
    "with_first",
    "with_output",
]

Inner = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""What a part wraps: the module's own call, or the next part around it."""


class Part(nn.Module, ABC):
    """One trainable thing at one module; its parameters are exactly what it trains.

    Args:
        base: the module at the site, whose shapes the part follows.
        spec: its entry of the plan (JSON).
    """

    kind: ClassVar[str]
    """Its name in plans."""
    mergeable: ClassVar[bool] = False
    """Whether :meth:`merge` can fold it into the module's own parameters."""

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = dict(spec)

    @classmethod
    @abstractmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """Trainable numbers by formula, from shapes and ``spec`` alone."""

    @abstractmethod
    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output with the part in place; ``inner(args, options)`` is the output without it."""

    def merge(self, base: nn.Module, owner: nn.Module) -> None:
        """Fold into the parameters of ``base`` (or, for a token, of ``owner``, the model below the scope).

        Raises:
            UserError: for a kind that no change of weights equals.
        """
        raise UserError(
            f"{self.kind}: no change of the model's weights equals this adapter, so it cannot be merged"
        )


_KINDS: dict[str, type[Part]] = {}


def register_part(part: type[Part]) -> type[Part]:
    """Make a part known by its ``kind``; a class decorator.

    Raises:
        UserError: when another class has that kind.
    """
    known = _KINDS.setdefault(part.kind, part)
    if known is not part:
        raise UserError(f"{part.kind}: this kind of part is taken by {known.__module__}.{known.__qualname__}")
    return part


def part_class(kind: str, tuner: str | None = None) -> type[Part]:
    """The class of a kind; where it is unknown the plug-in of ``tuner`` is imported first, which may bring it.

    Raises:
        UserError: for an unknown kind.
    """
    if kind not in _KINDS and tuner is not None:
        from mmalign import registry

        if tuner in registry.entries("tuners"):
            registry.load("tuners", tuner)
    if kind not in _KINDS:
        raise UserError(
            f'no part of a tuner is called "{kind}"{nearest(kind, _KINDS)}; known: {", ".join(sorted(_KINDS))}'
        )
    return _KINDS[kind]


def make_part(base: nn.Module, spec: Mapping[str, Any], tuner: str | None = None) -> Part:
    """Build the part that ``spec`` describes for the module ``base``, on its device."""
    part = part_class(spec["kind"], tuner)(base, spec)
    home = next(base.parameters(), None)
    return part if home is None else part.to(home.device)


def first_input(args: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
    """The tensor that a module transforms: its first positional argument, else its first named tensor.

    Raises:
        UserError: for a call without a tensor.
    """
    for value in (*args[:1], *options.values()):
        if isinstance(value, Tensor):
            return value
    raise UserError("a tuner's site was called without a tensor")


def with_first(
    args: tuple[Any, ...], options: dict[str, Any], value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with another first tensor."""
    if args:
        return (value, *args[1:]), options
    name = next(key for key, old in options.items() if isinstance(old, Tensor))
    return args, {**options, name: value}


def with_output(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``output`` with its (first) tensor changed; tuples keep the rest."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)
