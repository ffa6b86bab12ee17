"""Reading MusicGen-type models, their tokenizers and codecs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoProcessor, AutoTokenizer, MusicgenForConditionalGeneration
from transformers.utils import logging

from mmalign.errors import UserError
from mmalign.modalities.audio.codec import Codec, HubCodec
from mmalign.modalities.audio.parts import condition, heads, states
from mmalign.modalities.audio.scoring import head_logits
from mmalign.modalities.tokens.forward import unwrap
from mmalign.modalities.tokens.loading import adapter_base, check_kind, first_line, load_pretrained

__all__ = ["load_codec", "load_model", "load_processor"]


def load_processor(source: str) -> Any:
    """The processor of ``source``, or its tokenizer where there is no more; a LoRA folder's base may have it.

    Raises:
        UserError: when there is none.
    """
    base = adapter_base(source)
    if base and not (Path(source) / "tokenizer_config.json").is_file():
        source = base
    with _hushed():
        _check_kind(base or source)
    auto: Any = AutoProcessor if _has_processor(source) else AutoTokenizer
    try:
        with _hushed():
            return auto.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise UserError(
            f'no tokenizer of captions could be loaded from "{source}" ({first_line(error)})'
        ) from error


def load_model(source: str, *, device: str, dtype: str, merge: bool = True) -> nn.Module:
    """Load a MusicGen-type model; an adapter folder is merged into its base, or kept with ``merge=False``.

    Raises:
        UserError: when the source is missing, of another kind or not in safetensors.
    """
    with _hushed():
        return load_pretrained(
            source,
            MusicgenForConditionalGeneration,
            _check_kind,
            what="text-to-music model",
            device=device,
            dtype=dtype,
            merge=merge,
            check_head=_check_parts,
        )


def load_codec(model: nn.Module, source: str) -> Codec:
    """The codec beside the model in its folder (of its base, for a LoRA folder), else the model's own audio encoder.

    A folder with ``codec.safetensors`` holds a table codec, which transformers does not know; the audio encoder of
    such a model is a stand-in that is never run.
    """
    from mmalign.worlds.tunes.codec import CODEC_FILE, BandCodec

    for folder in (source, adapter_base(source) if source else None):
        if folder and (Path(folder) / CODEC_FILE).is_file():
            return BandCodec.load(Path(folder))
    whole: Any = unwrap(model)
    decoder = whole.config.decoder
    return HubCodec(whole.audio_encoder, decoder.num_codebooks, decoder.audio_channels)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the owner library's warning that MusicGen's special token lies outside its vocabulary: it always does."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _check_kind(source: str) -> None:
    check_kind(source, ("musicgen",), "a text-to-music model", encoder_decoder=True)


def _has_processor(source: str) -> bool:
    folder = Path(source)
    names = ("processor_config.json", "preprocessor_config.json")
    return not folder.is_dir() or any((folder / name).is_file() for name in names)


@torch.no_grad()
def _check_parts(model: nn.Module, source: str) -> None:
    """Compare the model's own logits with those of its parts; refuse whatever is computed in another way."""
    whole: Any = model
    device, books = next(model.parameters()).device, whole.decoder.num_codebooks
    ids = torch.ones((1, 2), dtype=torch.long, device=device)
    columns = torch.zeros((1, books, 2), dtype=torch.long, device=device)
    theirs = whole(input_ids=ids, attention_mask=ids, decoder_input_ids=columns[0], use_cache=False).logits
    hidden, _ = states(model, condition(model, ids, ids), columns, 1.0)
    ours = torch.cat([head_logits(head, hidden) for head in heads(model)])
    gap = float((theirs.float() - ours).abs().max())
    if not gap <= 1e-3 * max(1.0, float(theirs.abs().max())):
        raise UserError(
            f'"{source}" ({type(model).__name__}) computes its logits in a way that is not known here '
            f"(off by {gap:.2g}); log-probs would be wrong"
        )
