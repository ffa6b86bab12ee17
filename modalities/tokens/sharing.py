"""Whether a model's rows may share their prompts, found out once on real rows and said when they may not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.forward import answer_states, unwrap
from mmalign.modalities.tokens.packing import (
    NotShareable,
    Packed,
    pack_batch,
    packed_states,
    why_not_shareable,
)
from mmalign.types import Batch, Speed

__all__ = ["SharedPrefix"]

_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-8}
"""How far hidden states may differ from the plain path's, relative to the largest; half precision: 0.05."""

_FULL = 0.8
"""A batch whose rows fill at most this share of the padded layout is laid out flat."""

_LOG = logging.getLogger("mmalign")


class SharedPrefix:
    """Decides between the flat and the padded forward; two rows of the first flat batch are computed both ways.

    ``reason`` is empty while sharing works, else why the last batch did not.  What depends on a batch (its length under
    a sliding window, gradient checkpointing) is asked for each one, so that its layout depends on nothing before it;
    what trying it out has shown holds for good.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._proven = False
        self._failed = False
        self._said: set[str] = set()

    def wanted(
        self, prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]], speed: Speed
    ) -> bool:
        """Whether a flat row pays: a prompt occurs twice, or padding would be a fifth of the batch or more."""
        if self._failed:
            return False
        if speed.share_prefix and len({id(prompt) for prompt in prompts}) < len(prompts):
            return True
        sizes = [len(prompt.ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return speed.pack and sum(sizes) <= _FULL * max(sizes) * len(sizes)

    def settled(
        self,
        model: nn.Module,
        batch: Batch,
        device: torch.device,
        plain: Callable[[Batch, Sequence[int]], Batch],
    ) -> Batch:
        """The batch as it is, or padded (by ``plain``) where its flat row cannot be used."""
        packed = batch.inputs.get("packed")
        if not isinstance(packed, Packed) or self.serves(model, packed, device, partial(plain, batch)):
            return batch
        return plain(batch, range(len(batch)))

    def serves(
        self,
        model: nn.Module,
        packed: Packed,
        device: torch.device,
        plain: Callable[[Sequence[int]], Batch],
    ) -> bool:
        """Whether ``packed`` may be computed as it is; ``plain`` makes the padded batch of some of its rows."""
        if self._failed:
            return False
        obstacle = why_not_shareable(model, packed.prompts, packed.longest)
        if obstacle is None and not self._proven:
            obstacle = _tried(model, packed, device, plain)
            self._proven, self._failed = obstacle is None, obstacle is not None
        self.reason = obstacle or ""
        if obstacle is not None and obstacle not in self._said:
            self._said.add(obstacle)
            _LOG.warning(
                "%s does not share prompts between answers: %s; the padded forward is used, with the same numbers",
                type(unwrap(model)).__name__,
                obstacle,
            )
        return obstacle is None


@torch.no_grad()
def _tried(
    model: nn.Module, packed: Packed, device: torch.device, plain: Callable[[Sequence[int]], Batch]
) -> str | None:
    """Compute two rows, of one prompt if possible, both ways; the reason against the flat row, or ``None``."""
    prompts, answers = packed.rows()
    shared = [k for k, prompt in enumerate(prompts) if sum(p is prompt for p in prompts) > 1]
    first = prompts[shared[0]] if shared else None
    few = [k for k, prompt in enumerate(prompts) if first is None or prompt is first][:2]
    small, mask = pack_batch([prompts[k] for k in few], [answers[k] for k in few])
    padded = plain(few)
    inputs = {name: value.to(device) for name, value in padded.inputs.items()}
    expected = answer_states(model, inputs, mask.shape[1])[:, :-1][mask.to(device)].float()
    try:
        got = packed_states(model, small, device)[:, :-1][mask.to(device)].float()
    except NotShareable as error:
        return f"its attention uses {error}"
    gap = float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    dtype = next(model.parameters()).dtype
    if not gap <= _TOLERANCE.get(dtype, 5e-2):
        return f"hidden states differed by {gap:.2g} when it was tried"
    return None
