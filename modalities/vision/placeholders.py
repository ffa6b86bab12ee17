"""The per-sample count of image placeholders, held against what the images really give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.types import Row

__all__ = ["PlaceholderCheck", "count_features"]


class PlaceholderCheck:
    """Compares the placeholders in a prompt with the features its images (or other media) really give.

    The number of features depends on shapes alone, so the tower runs once per new shape, without
    gradient, and the answer is remembered.

    Args:
        image_id: the placeholder's token id.
        count: returns the number of image features for the media tensors of one row.
        kind: what the media are called.
    """

    def __init__(
        self, image_id: int | None, count: Callable[[Mapping[str, Tensor]], int], kind: str = "image"
    ) -> None:
        self._image_id = image_id
        self._count = count
        self._kind = kind
        self._seen: dict[Any, int] = {}

    def __call__(self, row: Row, prompt: EncodedPrompt) -> None:
        """Raise when the row's placeholders and features differ.

        Raises:
            UserError: naming the row, the number of placeholders and the number of features.
        """
        if self._image_id is None:
            return
        found = int((prompt.ids == self._image_id).sum())
        expected = self._features(prompt.media)
        if found != expected:
            raise UserError(
                f'row "{row.id}": the prompt has {found} {self._kind} placeholder token(s) but its '
                f"{len(row.media)} {self._kind}(s) give {expected} feature(s); the processor's {self._kind} settings "
                "do not match the model"
            )

    def _features(self, media: Mapping[str, Tensor]) -> int:
        if not media:
            return 0
        key = tuple((name, tuple(value.shape), _small(value)) for name, value in sorted(media.items()))
        if key not in self._seen:
            self._seen[key] = self._count(media)
        return self._seen[key]


def _small(value: Tensor) -> tuple[int, ...]:
    """The content of small integer tensors (grids, sizes) and the sum of large ones (masks): they decide counts too."""
    if value.is_floating_point():
        return ()
    return tuple(value.flatten().tolist()) if value.numel() <= 64 else (int(value.sum()),)


def count_features(model: Any, media: Mapping[str, Tensor]) -> int:
    """Return how many feature vectors the model makes of ``media``: from the patch grid, or one tower pass."""
    merge = getattr(getattr(model.config, "vision_config", None), "spatial_merge_size", None)
    if merge and "image_grid_thw" in media:
        return int((media["image_grid_thw"].prod(-1) // merge**2).sum())
    known = inspect.signature(model.get_image_features).parameters
    device = next(model.parameters()).device
    given = {name: value.to(device) for name, value in media.items() if name in known}
    with torch.no_grad():
        out = model.get_image_features(**given, return_dict=True)
    pooled = out.pooler_output if hasattr(out, "pooler_output") else out
    parts = [pooled] if isinstance(pooled, Tensor) else list(pooled)
    return sum(part.numel() // part.shape[-1] for part in parts)
