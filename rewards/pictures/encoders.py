"""Dual encoders of pictures and words, from a local folder of transformers or of open_clip."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.rewards.pictures.tensors import CLIP_MEAN, CLIP_STD, Preparation
from mmalign.rewards.pictures.weights import fill_module, read_weights, weights_file

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DualEncoder", "load_dual_encoder"]


class DualEncoder:
    """Unit vectors of pictures and of words in one space; frozen, with gradient towards the pictures.

    Args:
        model: the frozen CLIP-type model.
        prepare: what its picture tower sees.
        images: prepared pictures ``[B, 3, s, s]`` to ``[B, D]``.
        texts: words to ``[B, D]``.
        scale: the factor on cosines that the model was trained with, ``exp(logit_scale)``.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Preparation,
        images: Callable[[Tensor], Tensor],
        texts: Callable[[Sequence[str]], Tensor],
        scale: float,
    ) -> None:
        self.model, self.prepare, self.scale = model, prepare, scale
        self._images, self._texts = images, texts

    def images(self, pictures: Tensor) -> Tensor:
        """Unit vectors ``[B, D]`` of pictures ``[B, 3, H, W]`` in [0, 1]."""
        self.model.to(pictures.device)
        return nn.functional.normalize(self._images(self.prepare(pictures)), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``[B, D]`` of words, each different text encoded once."""
        unique = list(dict.fromkeys(texts))
        found = nn.functional.normalize(self._texts(unique), dim=-1)
        return found[[unique.index(text) for text in texts]]

    def cosine(self, texts: Sequence[str], pictures: Tensor) -> Tensor:
        """Cosine ``[B]`` of each picture with its own text."""
        images = self.images(pictures)
        return (images * self.texts(texts)).sum(-1)


def load_dual_encoder(source: str, weights: str | None = None) -> DualEncoder:
    """Read a dual encoder from ``source``.

    Args:
        source: a folder with ``config.json`` (transformers' CLIP) or ``open_clip_config.json``, or the name of an
            open_clip architecture, which needs ``weights``.
        weights: a file of weights (.safetensors, .pt, .bin) in the place of the folder's.

    Raises:
        UserError: when nothing of the kind is there, or the weights lack a key.
    """
    folder = Path(source)
    if (folder / "open_clip_config.json").is_file():
        file = Path(weights) if weights else weights_file(folder)
        return _open_clip(f"local-dir:{folder}", file)
    if (folder / "config.json").is_file():
        return _transformers(folder, Path(weights) if weights else weights_file(folder))
    if folder.exists():
        raise UserError(f"{folder}: expected config.json (transformers) or open_clip_config.json")
    if weights is None:
        raise UserError(
            f"{source}: no such folder; an open_clip architecture such as ViT-H-14 needs a file of weights as well"
        )
    return _open_clip(source, Path(weights))


def _transformers(folder: Path, file: Path) -> DualEncoder:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    config: Any = CLIPConfig.from_pretrained(folder)
    model: Any = fill_module(CLIPModel(config), read_weights(file), file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = config.text_config.max_position_embeddings

    def images(pictures: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output)

    def texts(words: Sequence[str]) -> Tensor:
        device = next(model.parameters()).device
        coded = tokenizer(
            list(words), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        found = model.text_model(input_ids=coded.input_ids, attention_mask=coded.attention_mask)
        return model.text_projection(found.pooler_output)

    prepare = _preparation(folder / "preprocessor_config.json", config.vision_config.image_size)
    return DualEncoder(model, prepare, images, texts, float(model.logit_scale.exp()))


def _preparation(file: Path, size: int) -> Preparation:
    if not file.is_file():
        return Preparation(size)
    said = json.loads(file.read_text(encoding="utf-8"))
    return Preparation(size, said.get("image_mean", CLIP_MEAN), said.get("image_std", CLIP_STD))


def _open_clip(name: str, file: Path) -> DualEncoder:
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"{name}: needs open_clip, which is not installed; run `pip install 'mmalign[diffusion]'`"
        ) from error
    try:
        with _quiet():
            made: Any = open_clip.create_model(name, load_weights=False)
        tokenizer: Any = open_clip.get_tokenizer(name)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name}: open_clip cannot make this model ({reason})") from error
    model: Any = fill_module(made, read_weights(file), file)
    size = model.visual.image_size
    mean = getattr(model.visual, "image_mean", None) or CLIP_MEAN
    std = getattr(model.visual, "image_std", None) or CLIP_STD
    prepare = Preparation(size[0] if isinstance(size, list | tuple) else size, mean, std)

    def texts(words: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(words)).to(next(model.parameters()).device))

    return DualEncoder(model, prepare, model.encode_image, texts, float(model.logit_scale.exp()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the model is random: its weights are read right after."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
