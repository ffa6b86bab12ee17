"""The text modality: any Hugging Face causal language model, and the smallest adapter there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmalign.errors import UserError
from mmalign.modalities.text.loading import load_model, load_tokenizer
from mmalign.modalities.text.prompts import TextPrompts
from mmalign.modalities.tokens.adapter import TokenAdapter
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.types import Row

__all__ = ["TextAdapter"]


class TextAdapter(TokenAdapter):
    """Loads, scores and samples a causal language model; settings are those of :class:`TokenAdapter`.

    Conversations go through the tokenizer's chat template; a plain text prompt does too where there is one, and is
    continued as it stands where there is none.
    """

    name = "text"

    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model and tokenizer from a folder or hub name; LoRA folders as in the vision adapter.

        Raises:
            UserError: when the source is missing or is no causal language model.
        """
        tokenizer = load_tokenizer(source)
        model = load_model(source, device=device, dtype=dtype, merge=merge)
        self.adopt(model, tokenizer)
        return model

    def show(self, row: Row) -> Mapping[str, Any]:
        """``{"text": answer}``, or the prompt where there is no answer."""
        return {"text": plain_text(row.prompt if row.completion is None else row.completion) or ""}

    def _source(self, model: nn.Module, processor: Any) -> TextPrompts:
        return TextPrompts(processor)

    def _prompt(self, row: Row) -> EncodedPrompt:
        if row.media:
            raise UserError(
                f'row "{row.id}": carries {len(row.media)} media, which modality text cannot read; use modality: vision'
            )
        return super()._prompt(row)
