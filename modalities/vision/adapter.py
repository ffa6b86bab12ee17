"""The vision modality: any Hugging Face image-text-to-text model as a maker of token trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from mmalign.modalities.tokens.adapter import TokenAdapter
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.forward import unwrap
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.modalities.vision.encoding import ImagePrompts
from mmalign.modalities.vision.loading import load_model, load_processor
from mmalign.modalities.vision.media import blank_image, png_bytes
from mmalign.modalities.vision.placeholders import PlaceholderCheck, count_features
from mmalign.types import Row

__all__ = ["VisionAdapter"]


class VisionAdapter(TokenAdapter):
    """Loads, scores, samples and shows a vision-language model; settings are those of :class:`TokenAdapter`."""

    name = "vision"
    _check: PlaceholderCheck | None = None

    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model and processor from a folder or hub name.

        A folder with a LoRA adapter brings its base along; the adapter is merged, so that whatever is
        attached next starts from it, or kept as a trainable ``PeftModel`` with ``merge=False``.

        Raises:
            UserError: when the source is missing, is no image-text model or has no chat template.
        """
        processor = load_processor(source)
        model = load_model(source, device=device, dtype=dtype, merge=merge)
        self.adopt(model, processor)
        return model

    def blank(self, row: Row) -> Row:
        """The same row with mid-grey images of the same size."""
        return replace(row, media=tuple(blank_image(media, row.id) for media in row.media))

    def show(self, row: Row) -> Mapping[str, Any]:
        """``{"images": [png bytes], "text": answer}`` (the prompt where there is no answer)."""
        text = plain_text(row.prompt if row.completion is None else row.completion)
        return {"images": [png_bytes(media, row.id) for media in row.media], "text": text or ""}

    def _source(self, model: nn.Module, processor: Any) -> ImagePrompts:
        hugging = unwrap(model)
        image_id = getattr(hugging.config, "image_token_id", None)
        self._check = PlaceholderCheck(image_id, lambda media: count_features(hugging, media))
        self._answer_type = 1 if hugging.config.model_type == "paligemma" else 0
        return ImagePrompts(processor)

    def _prompt(self, row: Row) -> EncodedPrompt:
        prompt = super()._prompt(row)
        assert self._check is not None
        self._check(row, prompt)
        return prompt
