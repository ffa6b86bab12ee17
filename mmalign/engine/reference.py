"""The reference policy: adapter switched off, a frozen copy, or numbers computed before."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.data.content import media_digest
from mmalign.engine.atomic import write_folder
from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.protocols import Likelihood
    from mmalign.types import Batch, Row

__all__ = ["CachedReference", "Reference", "has_adapter", "row_key"]


def has_adapter(model: nn.Module) -> bool:
    """Whether a tuner is attached that can be switched off (peft's ``disable_adapter``)."""
    return callable(getattr(model, "disable_adapter", None)) and hasattr(model, "peft_config")


class Reference:
    """Scores batches under the policy as it was before training.

    Args:
        adapter: the modality's adapter.
        model: the policy; with ``how="copy"`` it is copied now, before any update.
        how: ``"adapter_off"``, ``"copy"``, or ``"auto"`` (adapter off where a tuner is attached).

    Raises:
        UserError: when ``adapter_off`` is asked for and no tuner is attached.
    """

    def __init__(self, adapter: Likelihood, model: nn.Module, how: str = "auto") -> None:
        if how == "auto":
            how = "adapter_off" if has_adapter(model) else "copy"
        if how == "adapter_off" and not has_adapter(model):
            raise UserError(
                "reference: adapter_off needs a LoRA or another tuner on the model; use reference: copy"
            )
        if how not in ("adapter_off", "copy"):
            raise UserError(
                f"reference: {how!r} does not serve freshly sampled answers; use auto, adapter_off or copy"
            )
        self.how = how
        self._adapter = adapter
        self._model = model if how == "adapter_off" else copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def logp(self, batch: Batch, rng: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Reference log-probabilities ``[B, T]`` in nats of the batch's answers."""
        with self._off():
            return self._adapter.logp(self._model, batch, rng, temperature=temperature).values

    def _off(self) -> AbstractContextManager[object]:
        if self.how == "copy":
            return nullcontext()
        return _adapter_off(self._model)


@contextmanager
def _adapter_off(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with model.disable_adapter():  # type: ignore[operator]
            yield
    finally:
        model.train(training)


def row_key(row: Row) -> str:
    """A content hash of a row's prompt, media and answer: the key of every cache of its numbers."""
    digest = hashlib.sha256()
    digest.update(json.dumps(row.prompt, sort_keys=True, default=str).encode())
    for item in row.media:
        digest.update(media_digest(item).encode())
    digest.update(repr(row.steps if row.steps is not None else row.completion).encode())
    return digest.hexdigest()


class CachedReference:
    """Reference log-probabilities on disk, keyed by the row's content and the reference's weights.

    Args:
        folder: where the numbers lie; one safetensors file per weights hash.
        weights: identifies the reference (a hash of its weights): another model never reads them.
        compute: ``rows -> list of [T_i]`` for rows that are not in the cache yet.
    """

    def __init__(
        self, folder: Path, weights: str, compute: Callable[[Sequence[Row]], Sequence[Tensor]]
    ) -> None:
        self._folder = folder / f"reference-{weights[:16]}"
        self._compute = compute
        file = self._folder / "logp.safetensors"
        self._known: dict[str, Tensor] = load_file(file) if file.is_file() else {}

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """One ``[T_i]`` tensor per row, computed once per content."""
        keys = [row_key(row) for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        if missing:
            values = self._compute(list(missing.values()))
            self._known |= {key: value.contiguous() for key, value in zip(missing, values, strict=True)}
            write_folder(self._folder, lambda target: save_file(self._known, target / "logp.safetensors"))
        return [self._known[key] for key in keys]
