"""A diffusers pipeline as one module: its networks under their own names, with guidance and caches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmalign.modalities.diffusion.backbones import Backbone, Condition
from mmalign.modalities.diffusion.options import DiffusionOptions

__all__ = ["DiffusionPolicy", "frozen", "policy_of"]


class DiffusionPolicy(nn.Module):
    """The trainable view of a pipeline: the denoiser trains, text encoders and autoencoder are frozen.

    Args:
        backbone: the pipeline and what is particular to it.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.schedule = backbone.schedule()
        for name, part in backbone.pipeline.components.items():
            if isinstance(part, nn.Module) and name != "safety_checker":
                part.requires_grad_(name == backbone.core)
                self.add_module(name, part)
        self._text = _Kept()
        self._latents = _Kept()

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.backbone.denoiser.parameters()).device

    def condition(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """Embeddings of prompts ``[B, ...]``; a prompt's are kept while no text encoder changes or trains."""
        parts = self.backbone.text_parts()
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts], device=self.device)
        if not frozen(parts):
            fresh = self.backbone.encode(distinct, options)
            return {name: value[rows] for name, value in fresh.items()}
        self._text.open(parts, options.max_prompt_tokens, keep=options.cache_text)
        missing = [prompt for prompt in distinct if prompt not in self._text.known]
        for prompt in missing:
            with torch.no_grad():
                made = self.backbone.encode([prompt], options)
            self._text.known[prompt] = {name: value.detach() for name, value in made.items()}
        found = [self._text.known[prompt] for prompt in distinct]
        return {name: torch.cat([one[name] for one in found])[rows] for name in found[0]}

    def latents(self, pixels: Tensor, keys: Sequence[str], options: DiffusionOptions) -> Tensor:
        """Latents ``[B, ...]`` of pictures in -1 to 1; a picture's are kept while the autoencoder does not change."""
        vae = self.backbone.vae
        if vae is None or not frozen([vae]):
            return self.backbone.encode_pixels(pixels.to(self.device))
        self._latents.open([vae], tuple(pixels.shape[1:]), keep=options.cache_latents)
        for place, key in enumerate(keys):
            if key not in self._latents.known:
                with torch.no_grad():
                    one = pixels[place : place + 1].to(device=self.device, dtype=vae.dtype)
                    self._latents.known[key] = self.backbone.encode_pixels(one).float()
        return torch.cat([self._latents.known[key] for key in keys])

    def predict(
        self,
        x: Tensor,
        time: Tensor,
        condition: Condition,
        empty: Condition | None,
        options: DiffusionOptions,
    ) -> Tensor:
        """The denoiser's output in float32, guided away from ``empty`` where that is given.

        ``out = empty + w (prompt - empty)``, in one pass of twice the batch, as diffusers does it.
        """
        core = self.backbone.denoiser
        given = x.to(core.dtype)
        if empty is None:
            return self.backbone.predict(given, time, condition, options).float()
        both = {name: torch.cat([empty[name].expand_as(value), value]) for name, value in condition.items()}
        out = self.backbone.predict(given.repeat(2, 1, 1, 1), time.repeat(2), both, options).float()
        without, prompted = out.chunk(2)
        return without + options.guidance_scale * (prompted - without)

    def empty(self, options: DiffusionOptions) -> Condition | None:
        """The condition that guidance moves away from, or ``None`` where nothing is guided."""
        if options.guidance_scale == 1 or self.backbone.denoiser.config.get("guidance_embeds"):
            return None
        return self.condition([options.negative_prompt], options)


def policy_of(model: nn.Module) -> DiffusionPolicy:
    """The policy inside a distributed wrapper and a ``PeftModel``."""
    inner: Any = model
    while isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    assert isinstance(inner, DiffusionPolicy)
    return inner


def frozen(parts: Iterable[nn.Module]) -> bool:
    """Whether no parameter of the parts trains and no tuner is attached to them."""
    for part in parts:
        if any(parameter.requires_grad for parameter in part.parameters()):
            return False
        if any(isinstance(module, BaseTunerLayer) for module in part.modules()):
            return False
    return True


class _Kept:
    """Outputs of frozen networks by name; forgotten when a weight was written to or replaced."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self._mark: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept()

    def open(self, parts: Sequence[nn.Module], setting: Any, *, keep: bool) -> None:
        """Forget what other weights or another setting gave; with ``keep`` false forget everything."""
        tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        mark = (setting, *((tensor.data_ptr(), tensor._version) for tensor in tensors))
        if not keep or mark != self._mark:
            self.known.clear()
            self._mark = mark
