"""A diffusers pipeline as one module: its networks under their own names, with guidance and caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmalign.modalities.diffusion.backbones import Backbone, Condition
from mmalign.modalities.diffusion.flow_schedules import ConvertedFlow
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.schedules import DDIMSchedule, Sampler

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

    def sampler(self, options: DiffusionOptions) -> Sampler:
        """The sampler that the settings ask for: the network's own, or its noise schedule seen as a flow."""
        if isinstance(self.schedule, DDIMSchedule) and options.sampler in ("ode", "sde"):
            return ConvertedFlow(self.schedule)
        return self.schedule

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

        def made(place: int) -> Condition:
            with torch.no_grad():
                return self.backbone.encode([distinct[place]], options)

        keep = options.cache_text
        found = self._text.fetch(distinct, made, parts, options.max_prompt_tokens, keep=keep)
        return {name: torch.cat([one[name] for one in found])[rows] for name in found[0]}

    def latents(self, pixels: Tensor, keys: Sequence[str], options: DiffusionOptions) -> Tensor:
        """Latents ``[B, ...]`` of pictures in -1 to 1; a picture's are kept while the autoencoder does not change."""
        vae = self.backbone.vae
        if vae is None or not frozen([vae]):
            return self.backbone.encode_pixels(pixels.to(self.device))

        def made(place: int) -> Tensor:
            with torch.no_grad():
                one = pixels[place : place + 1].to(device=self.device, dtype=vae.dtype)
                return self.backbone.encode_pixels(one).float()

        keep = options.cache_latents
        return torch.cat(self._latents.fetch(keys, made, [vae], tuple(pixels.shape[1:]), keep=keep))

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
    """Outputs of frozen networks by name; forgotten when a weight was written to or replaced, the oldest first."""

    def __init__(self, max_bytes: int = 2**30) -> None:
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._mark: tuple[Any, ...] = ()
        self._held = 0
        self._max_bytes = max_bytes

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept(self._max_bytes)

    def fetch(
        self,
        names: Sequence[str],
        make: Callable[[int], Any],
        parts: Sequence[nn.Module],
        setting: Any,
        *,
        keep: bool,
    ) -> list[Any]:
        """The outputs called ``names``, made by ``make(place)`` where they are not known."""
        tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        mark = (setting, *((tensor.data_ptr(), tensor._version) for tensor in tensors))
        if not keep or mark != self._mark:
            self._forget()
            self._mark = mark
        for place, name in enumerate(names):
            if name in self._known:
                self._known.move_to_end(name)
            else:
                self._known[name] = make(place)
                self._held += _nbytes(self._known[name])
        found = [self._known[name] for name in names]
        while self._known and (not keep or self._held > self._max_bytes):
            self._held -= _nbytes(self._known.popitem(last=False)[1])
        return found

    def _forget(self) -> None:
        self._known.clear()
        self._held = 0


def _nbytes(value: Any) -> int:
    parts = value.values() if isinstance(value, Mapping) else [value]
    return sum(part.numel() * part.element_size() for part in parts)
