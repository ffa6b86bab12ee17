"""Sounds in, text out: Qwen2-Audio and its kin, along the route of the vision adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from mmalign.errors import UserError
from mmalign.modalities.audio.sound import content_name, open_sound, silence, wav_bytes
from mmalign.modalities.tokens.adapter import TokenAdapter
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.forward import body, unwrap
from mmalign.modalities.tokens.loading import adapter_base, check_kind, load_pretrained, read_processor
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.modalities.vision.encoding import ImagePrompts
from mmalign.modalities.vision.placeholders import PlaceholderCheck
from mmalign.types import Row

__all__ = ["AudioTextAdapter"]


class AudioTextAdapter(TokenAdapter):
    """Loads, scores, samples and shows a model that listens; settings are those of :class:`TokenAdapter`.

    ``row.media`` are sounds: clips, files, or samples at the processor's rate.
    """

    name = "audio-text"
    _check: PlaceholderCheck | None = None
    _rate: int | None = None

    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model and processor from a folder or hub name; LoRA folders as in the vision adapter.

        Raises:
            UserError: when the source is missing, takes no sounds or has no chat template.
        """
        processor = _load_processor(source)
        model = load_pretrained(
            source,
            AutoModelForMultimodalLM,
            _check_kind,
            what="audio-text model",
            device=device,
            dtype=dtype,
            merge=merge,
        )
        self.adopt(model, processor)
        return model

    def blank(self, row: Row) -> Row:
        """The same row with silence of the same length."""
        return replace(row, media=tuple(silence(media, row.id) for media in row.media))

    def show(self, row: Row) -> Mapping[str, Any]:
        """``{"audio": [wav bytes], "text": answer}`` (the prompt where there is no answer)."""
        text = plain_text(row.prompt if row.completion is None else row.completion)
        return {
            "audio": [wav_bytes(open_sound(media, row.id, self._rate)) for media in row.media],
            "text": text or "",
        }

    def _source(self, model: nn.Module, processor: Any) -> ImagePrompts:
        hugging = unwrap(model)
        token = getattr(hugging.config, "audio_token_id", None)
        self._check = PlaceholderCheck(token, lambda media: _features(hugging, media), "audio")
        rate = self._rate = int(processor.feature_extractor.sampling_rate)
        return ImagePrompts(
            processor,
            kind="audio",
            column="audio",
            opened=lambda media, row_id: open_sound(media, row_id, rate).samples,
            named=content_name,
            settings={"sampling_rate": rate},
        )

    def _prompt(self, row: Row) -> EncodedPrompt:
        prompt = super()._prompt(row)
        assert self._check is not None
        self._check(row, prompt)
        return prompt


def _load_processor(source: str) -> Any:
    base = adapter_base(source)
    if base and not (Path(source) / "processor_config.json").is_file():
        source = base
    _check_kind(base or source)
    processor = read_processor(source)
    if not hasattr(processor, "feature_extractor") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f'"{source}" takes no sounds: its processor is a {type(processor).__name__} without a feature extractor'
        )
    if not processor.chat_template:
        raise UserError(f'"{source}" has no chat template; put a chat_template.jinja beside its processor')
    return processor


def _check_kind(source: str) -> None:
    check_kind(source, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, "a model of sounds and text")


@torch.no_grad()
def _features(model: Any, media: Mapping[str, Tensor]) -> int:
    """How many feature vectors the model makes of the sounds: from their lengths, or one pass of the tower."""
    tower = getattr(body(model), "audio_tower", None)
    lengths, mask = (
        getattr(tower, "_get_feat_extract_output_lengths", None),
        media.get("feature_attention_mask"),
    )
    if lengths is not None and mask is not None:
        found = lengths(mask.sum(-1))
        return int((found[1] if isinstance(found, tuple) else found).sum())
    if not hasattr(model, "get_audio_features"):
        raise UserError(f"{type(model).__name__} does not say how many features it makes of a sound")
    device = next(model.parameters()).device
    out = model.get_audio_features(media["input_features"].to(device))
    pooled = getattr(out, "pooler_output", out)
    return int(pooled.numel() // pooled.shape[-1])
