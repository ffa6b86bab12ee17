"""Features of a frozen media tower, computed once per picture and kept.

A frozen tower gives the same features for a picture in every epoch, for both answers of a pair, for every sample of a
group, and for policy and reference.  The cache stands in front of the tower's ``forward`` during a call; what comes
after the tower (projector, merger outside it) still runs and trains.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mmalign.modalities.tokens.forward import body

__all__ = ["TowerCache", "find_tower"]

_TOWERS = ("vision_tower", "visual", "vision_model", "audio_tower")
_PIXELS = ("pixel_values", "hidden_states", "input_features")


def find_tower(model: nn.Module) -> nn.Module | None:
    """The media tower inside a model's body, or ``None``."""
    inner = body(model)
    return next(
        (getattr(inner, name) for name in _TOWERS if isinstance(getattr(inner, name, None), nn.Module)), None
    )


class TowerCache:
    """Keeps tower outputs by the picture's content and the tower's weights; oldest go first.

    It is off by itself while the tower trains, carries an adapter or has no fixed split into pictures.

    Args:
        max_bytes: memory for kept features; 0 switches the cache off.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._known: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._held = 0
        self._hashes: dict[int, tuple[tuple[int, ...], str]] = {}

    @contextmanager
    def over(self, model: nn.Module, tower: nn.Module | None = None) -> Iterator[None]:
        """Serve ``tower`` (by default the media tower of ``model``) from the cache inside the block, where sound."""
        tower = (tower or find_tower(model)) if self.max_bytes else None
        if tower is None or not _is_frozen(tower) or "forward" in vars(tower):
            yield
            return
        original: Any = tower.forward
        tower.forward = lambda *args, **options: self._serve(tower, original, args, options)
        try:
            yield
        finally:
            del tower.forward

    def _serve(self, tower: nn.Module, original: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        pieces = _split(args, options)
        if pieces is None:
            return original(*args, **options)
        weights = self._weights(tower)
        fixed = repr(sorted((k, v) for k, v in options.items() if not isinstance(v, Tensor)))
        found = []
        for one_args, one_options in pieces:
            key = (weights, _digest(fixed, one_args, one_options))
            if key in self._known:
                self.hits += 1
                self._known.move_to_end(key)
            else:
                self.misses += 1
                with torch.no_grad():
                    self._keep(key, original(*one_args, **one_options))
            found.append(self._known.get(key))
        return _join(found)

    def _keep(self, key: tuple[str, str], output: Any) -> None:
        self._known[key] = output
        self._held += _nbytes(output)
        while self._held > self.max_bytes and len(self._known) > 1:
            self._held -= _nbytes(self._known.popitem(last=False)[1])

    def _weights(self, tower: nn.Module) -> str:
        """A hash of the tower's weights; made again only when one was written to or replaced."""
        state = [*tower.parameters(), *tower.buffers()]
        version = tuple(number for tensor in state for number in (tensor.data_ptr(), tensor._version))
        known = self._hashes.get(id(tower))
        if known is None or known[0] != version:
            digest = hashlib.sha256()
            for tensor in state:
                digest.update(_raw(tensor))
            self._hashes[id(tower)] = known = (version, digest.hexdigest())
        return known[1]


def _is_frozen(tower: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    return not any(isinstance(module, BaseTunerLayer) for module in tower.modules())


def _split(
    args: tuple[Any, ...], options: dict[str, Any]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]] | None:
    """The call cut into one call per picture, or ``None`` where the inputs do not say how."""
    tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
    if not tensors:
        return None
    grid = options.get("grid_thw", args[1] if len(args) > 1 else None)
    if isinstance(grid, Tensor) and grid.ndim == 2 and grid.shape[1] == 3:
        sizes = grid.prod(-1).tolist()
        if tensors[0].shape[0] != sum(sizes):
            return None
        cuts = {id(tensors[0]): sizes}
    else:
        cuts = {}
    count = len(cuts[id(tensors[0])]) if cuts else tensors[0].shape[0]
    if any(id(t) not in cuts and (t.ndim == 0 or t.shape[0] != count) for t in tensors):
        return None

    def cut(value: Any) -> list[Any]:
        if not isinstance(value, Tensor):
            return [value] * count
        return list(value.split(cuts.get(id(value), [1] * count)))

    positional = [cut(value) for value in args]
    named = {name: cut(value) for name, value in options.items()}
    return [
        (tuple(column[k] for column in positional), {name: column[k] for name, column in named.items()})
        for k in range(count)
    ]


def _digest(fixed: str, args: Sequence[Any], options: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(fixed.encode(), digest_size=16)
    for value in (*args, *(options[name] for name in sorted(options))):
        if isinstance(value, Tensor):
            digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
            digest.update(_raw(value))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _join(outputs: Sequence[Any]) -> Any:
    """Outputs of single pictures as the output of one call: tensors are concatenated, structures kept."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, Mapping):
        joined = {name: _join([output[name] for output in outputs]) for name in first}
        kind: Any = type(first)
        return kind(**joined) if isinstance(first, ModelOutput) else kind(joined)
    if isinstance(first, tuple | list):
        return type(first)(_join(column) for column in zip(*outputs, strict=True))
    return first


def _nbytes(output: Any) -> int:
    if isinstance(output, Tensor):
        return output.numel() * output.element_size()
    if isinstance(output, Mapping):
        return sum(_nbytes(value) for value in output.values())
    return sum(_nbytes(value) for value in output) if isinstance(output, tuple | list) else 0
