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

from mmalign.data.content import answer_digest, media_digest
from mmalign.engine.atomic import write_folder
from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.protocols import Likelihood
    from mmalign.types import Batch, LogP, Row

__all__ = ["CachedReference", "Reference", "cached_reference", "has_adapter", "row_key", "weights_hash"]


def has_adapter(model: nn.Module) -> bool:
    """Whether a tuner is attached that can be switched off (peft's ``disable_adapter``)."""
    return callable(getattr(model, "disable_adapter", None)) and hasattr(model, "peft_config")


class Reference:
    """Scores batches under the policy as it was before training.

    Args:
        adapter: the modality's adapter.
        model: the policy; with ``how="copy"`` it is copied now, before any update.
        how: ``"adapter_off"``, ``"copy"`` (which shares what does not train), or ``"auto"`` (adapter off where a tuner
            is attached).

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
        if how == "copy":
            shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
            model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self._model = model

    def logp(self, batch: Batch, rng: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Reference log-probabilities ``[B, T]`` in nats of the batch's answers."""
        return self.score(batch, rng, temperature).values

    @torch.no_grad()
    def score(self, batch: Batch, rng: torch.Generator | None = None, temperature: float = 1.0) -> LogP:
        """The whole score of the batch's answers, with what an exact KL needs."""
        with self._off():
            return self._adapter.logp(self._model, batch, rng, temperature=temperature)

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
    digest.update(answer_digest(row.steps if row.steps is not None else row.completion).encode())
    return digest.hexdigest()


class CachedReference:
    """Reference log-probabilities on disk, keyed by the row's content and the reference's weights.

    Call :meth:`precompute` while the policy still is the reference; then no second model is needed, in memory or
    in the step.  Serves answers that are known beforehand, and true log-probabilities only.

    Args:
        folder: where the numbers lie; one safetensors file per weights hash.
        weights: identifies the reference (:func:`weights_hash`): another model never reads its numbers.
        compute: ``rows -> list of [T_i]`` for rows that are not in the cache yet.
    """

    how = "cache"

    def __init__(
        self, folder: Path, weights: str, compute: Callable[[Sequence[Row]], Sequence[Tensor]]
    ) -> None:
        self._folder = folder / f"reference-{weights[:16]}"
        self._compute = compute
        file = self._folder / "logp.safetensors"
        self._known: dict[str, Tensor] = load_file(file) if file.is_file() else {}
        self._closed = False

    def precompute(self, rows: Sequence[Row], batch_size: int, *, write: bool = True) -> int:
        """Score the rows that are missing, ``batch_size`` at a time; returns how many there were.

        After this the reference is closed: it computes nothing more, because the policy is about to move.
        """
        places = {key: k for k, row in enumerate(rows) if (key := row_key(row)) not in self._known}
        missing = list(places)
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            values = self._compute([rows[places[key]] for key in chunk])
            self._known |= {key: value.cpu().contiguous() for key, value in zip(chunk, values, strict=True)}
        if missing and write:
            write_folder(self._folder, lambda target: save_file(self._known, target / "logp.safetensors"))
        self._closed = True
        return len(missing)

    def logp(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """Reference log-probabilities ``[B, T]`` in nats of the batch's answers, 0 off the mask.

        Raises:
            UserError: for a row that was not precomputed, or whose answer now has another number of steps.
        """
        del rng
        out = torch.zeros(batch.mask.shape, device=batch.mask.device)
        for place, (row, steps) in enumerate(zip(batch.rows, batch.mask.sum(1).tolist(), strict=True)):
            known = self._known.get(row_key(row))
            if known is None and not self._closed:
                self.precompute(batch.rows, len(batch.rows))
                self._closed = False
                known = self._known[row_key(row)]
            if known is None or len(known) != steps:
                got = (
                    "no cached reference"
                    if known is None
                    else f"{len(known)} cached steps instead of {steps}"
                )
                raise UserError(f"row {row.id}: {got}; remove {self._folder} and run again")
            out[place, : len(known)] = known.to(out.device)
        return out


def cached_reference(folder: Path, adapter: Likelihood, model: nn.Module) -> CachedReference:
    """A :class:`CachedReference` that computes with ``model`` as it is now.

    Raises:
        UserError: (when computing) for a modality whose score is a surrogate drawn at random.
    """

    @torch.no_grad()
    def compute(rows: Sequence[Row]) -> list[Tensor]:
        scored = adapter.logp(model, adapter.collate(rows))
        if scored.surrogate:
            raise UserError(
                f"reference: cache does not serve modality {adapter.name!r}, whose score is drawn anew each time; "
                "use copy or adapter_off"
            )
        return [values[mask] for values, mask in zip(scored.values, scored.mask, strict=True)]

    return CachedReference(folder, weights_hash(model), compute)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
