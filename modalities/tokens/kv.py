"""A key-value cache that is written in place: the usual one copies all keys and values for every new token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["roomy_cache"]

_ROOM = 64
"""Places that are added whenever a layer is full."""


def roomy_cache(config: Any, steps: int) -> DynamicCache:
    """A cache for the text configuration ``config`` with room for up to ``steps`` tokens at a time.

    Layers of another kind than full attention (sliding, recurrent) stay what they are.
    """
    cache = DynamicCache(config=config)
    room = max(1, min(steps, _ROOM))
    cache.layers = [_RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Full attention's keys and values as views of a larger tensor, made anew when it is full or was replaced."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._stores: list[Tensor | None] = [None, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(0, self.keys, key_states)
        self.values = self._append(1, self.values, value_states)
        return self.keys, self.values

    def _append(self, which: int, held: Tensor | None, new: Tensor) -> Tensor:
        assert held is not None, "lazy_initialization has made it"
        store, length = self._stores[which], held.shape[-2] if held.numel() else 0
        end = length + new.shape[-2]
        ours = store is not None and held.data_ptr() == store.data_ptr() and held.shape[:2] == store.shape[:2]
        if store is None or not ours or end > store.shape[2]:
            store = new.new_empty((*new.shape[:2], length + max(new.shape[-2], self._room), new.shape[-1]))
            if length:
                store[:, :, :length] = held
            self._stores[which] = store
        store[:, :, length:end] = new
        return store[:, :, :end]
