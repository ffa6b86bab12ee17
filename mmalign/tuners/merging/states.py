"""State dictionaries that are merged: the same names and shapes, numbers that can be averaged and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from mmalign.errors import UserError

__all__ = ["State", "check_alike", "combined"]

State = Mapping[str, Tensor]
"""``name -> tensor`` of a whole model."""


def check_alike(states: Sequence[State], names: Sequence[str] = ()) -> None:
    """Refuse models of different architectures.

    Args:
        states: the models' weights.
        names: what to call them in messages.

    Raises:
        UserError: for no model, or the first tensor that one has and another has not, or in another shape.
    """
    if not states:
        raise UserError("merge: no model given")
    for number, state in enumerate(states[1:], 1):
        called = names[number] if number < len(names) else f"model {number + 1}"
        if odd := sorted(set(state) ^ set(states[0])):
            raise UserError(f"merge: {called} is of another architecture (first difference: {odd[0]})")
        for name, tensor in state.items():
            if tensor.shape != states[0][name].shape:
                raise UserError(
                    f"merge: {called} has {name} in shape {tuple(tensor.shape)}, "
                    f"not {tuple(states[0][name].shape)}"
                )


def combined(states: Sequence[State], combine: Callable[[str, list[Tensor]], Tensor]) -> dict[str, Tensor]:
    """Combine tensor by tensor in float32 (or float64), back in the first model's format.

    Tensors of whole numbers (counters, positions) are the first model's.
    """
    check_alike(states)
    merged = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            merged[name] = first.clone()
            continue
        values = [state[name] if first.element_size() == 8 else state[name].float() for state in states]
        merged[name] = combine(name, values).to(first.dtype)
    return merged
