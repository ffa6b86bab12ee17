"""Any model with a likelihood as judge: one yes/no question per fact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.types import Row

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HFJudge"]


class HFJudge:
    """Ask an image-text-to-text model; ``p = P(yes) / (P(yes) + P(no))`` at the first answer step.

    Labels: +1 where ``p >= threshold + band``, -1 where ``p <= threshold - band``, 0 between.

    Args:
        source: folder or hub name of the judge model.
        modality: which adapter loads it (a registry name).
        template: prompt with ``{question}`` in the place of the fact's question.
        yes: the answer that affirms.
        no: the answer that denies; it must differ from ``yes`` in its first step.
        threshold: probability above which a fact counts as true.
        band: half width of the uncertain range.
        batch_size: model rows per pass.
        device: where the model runs.
        dtype: number type of the model.
        adapter: an adapter in the place of the registry's.

    Raises:
        UserError: when the template has no ``{question}`` or the band is negative.
    """

    name = "hf"

    def __init__(
        self,
        source: str,
        *,
        modality: str = "vision",
        template: str = "{question}",
        yes: str = "yes",
        no: str = "no",
        threshold: float = 0.5,
        band: float = 0.0,
        batch_size: int = 64,
        device: str = "cpu",
        dtype: str = "float32",
        adapter: Likelihood | None = None,
    ) -> None:
        if "{question}" not in template:
            raise UserError(f"template: expected '{{question}}' in the text, found {template!r}.")
        if band < 0:
            raise UserError(f"band: expected a number >= 0, found {band}.")
        self.source, self.template, self.yes, self.no = source, template, yes, no
        self.threshold, self.band, self.batch_size = threshold, band, batch_size
        self.modality, self.device, self.dtype = modality, device, dtype
        self.adapter = adapter
        self._model: nn.Module | None = None
        self.version = "|".join([source, template, yes, no, str(threshold), str(band)])

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """One label per fact: -1 denied, 0 uncertain, +1 affirmed."""
        labels = []
        for p in self.probabilities(row, facts):
            known = abs(p - self.threshold) >= self.band
            labels.append((1 if p >= self.threshold else -1) if known else 0)
        return labels

    def probabilities(self, row: Row, facts: Sequence[Any]) -> list[float]:
        """``P(yes) / (P(yes) + P(no))`` per fact."""
        import torch

        adapter, model = self._ready()
        asked = [
            replace(
                row,
                prompt=self.template.replace("{question}", fact.question()),
                completion=answer,
                steps=None,
                segments=(),
            )
            for fact in facts
            for answer in (self.yes, self.no)
        ]
        firsts: list[float] = []
        with torch.no_grad():
            for start in range(0, len(asked), 2 * self.batch_size):
                batch = adapter.collate(asked[start : start + 2 * self.batch_size])
                firsts += adapter.logp(model, batch).values[:, 0].tolist()
        pairs = list(zip(firsts[::2], firsts[1::2], strict=True))
        if pairs and all(yes == no for yes, no in pairs):
            raise UserError(
                f"judge {self.source!r} gives {self.yes!r} and {self.no!r} one and the same first token; "
                "choose answers that start differently (for example 'Yes' and 'No')."
            )
        return [1.0 / (1.0 + math.exp(min(no - yes, 700.0))) for yes, no in pairs]

    def _ready(self) -> tuple[Likelihood, nn.Module]:
        if self.adapter is None:
            from mmalign import registry

            self.adapter = registry.load("modalities", self.modality)()
        if self._model is None:
            self._model = self.adapter.load(self.source, device=self.device, dtype=self.dtype)
            self._model.eval()
        return self.adapter, self._model
