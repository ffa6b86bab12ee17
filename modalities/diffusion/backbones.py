"""What differs between diffusers pipelines: how prompts are encoded, the denoiser called, latents made and decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.modalities.diffusion.flow_schedules import FlowSchedule
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.schedules import DDIMSchedule, Schedule

__all__ = [
    "Backbone",
    "Drawing",
    "PixArt",
    "StableDiffusion",
    "StableDiffusionXL",
]

Condition = Mapping[str, Tensor]
"""Embeddings of prompts by name, each with the prompts in its first dimension."""


class Backbone(ABC):
    """A pipeline's parts under the names the adapter needs.

    Args:
        pipeline: the loaded diffusers pipeline.
    """

    core = "transformer"
    """Name of the part that denoises, which is the part that trains."""
    text = ("text_encoder", "text_encoder_2", "text_encoder_3")
    """Names of the parts that encode prompts, where the pipeline has them."""
    flow = False

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def denoiser(self) -> Any:
        """The network that denoises."""
        return getattr(self.pipeline, self.core)

    @property
    def vae(self) -> Any:
        """The autoencoder, or ``None`` in pixel space."""
        return getattr(self.pipeline, "vae", None)

    def text_parts(self) -> list[nn.Module]:
        """The networks that encode prompts."""
        found = [getattr(self.pipeline, name, None) for name in self.text]
        return [part for part in found if isinstance(part, nn.Module)]

    def schedule(self) -> Schedule:
        """The sampler's noise schedule, from the pipeline's own scheduler."""
        kind = FlowSchedule if self.flow else DDIMSchedule
        return kind(self.pipeline.scheduler.config)

    @abstractmethod
    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """Embeddings of prompts, padded to one length."""

    @abstractmethod
    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """The network's output ``[M, C, H, W]`` for latents ``x`` at times ``[M]``; no guidance."""

    def size(self, options: DiffusionOptions) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        own = self._own_size()
        high, wide = options.height or own, options.width or own
        factor = self._factor()
        if high % factor or wide % factor:
            raise UserError(
                f"model.options: height and width must be multiples of {factor}, got {high} x {wide}"
            )
        return high, wide

    def shape(self, options: DiffusionOptions) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        high, wide = self.size(options)
        return self._channels(), high // self._scale(), wide // self._scale()

    def tokens(self, options: DiffusionOptions) -> int:
        """How many patches the denoiser sees, for schedules that shift with the resolution."""
        _, high, wide = self.shape(options)
        patch = int(self.denoiser.config.get("patch_size", 1) or 1)
        return (high // patch) * (wide // patch)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Latents of pictures ``[B, 3, H, W]`` in -1 to 1: the mode of the autoencoder's posterior, rescaled."""
        posterior = self.vae.encode(pixels).latent_dist.mode()
        return (posterior - self._shift()) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]``, about -1 to 1, differentiable."""
        return self.vae.decode(latents / self.vae.config.scaling_factor + self._shift(), return_dict=False)[0]

    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def _channels(self) -> int:
        return int(self.denoiser.config.in_channels)

    def _scale(self) -> int:
        return int(self.pipeline.vae_scale_factor)

    def _factor(self) -> int:
        return self._scale()

    def _own_size(self) -> int:
        return int(self.denoiser.config.sample_size) * self._scale()


class StableDiffusion(Backbone):
    """Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to one CLIP encoder."""

    core = "unet"

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """CLIP's hidden states."""
        device = self.denoiser.device
        return {"text": self.pipeline.encode_prompt(list(prompts), device, 1, False)[0]}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """One pass of the U-Net."""
        return self.denoiser(x, time, encoder_hidden_states=condition["text"], return_dict=False)[0]


class StableDiffusionXL(Backbone):
    """SDXL: two CLIP encoders, a pooled embedding and the picture's size as extra conditions."""

    core = "unet"

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """Both encoders' hidden states, joined, and the second's pooled state."""
        text, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.denoiser.device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """One pass of the U-Net, told that the picture is uncropped."""
        high, wide = self.size(options)
        sizes = torch.tensor([high, wide, 0, 0, high, wide], dtype=x.dtype, device=x.device)
        added = {"text_embeds": condition["pooled"], "time_ids": sizes.expand(len(x), -1)}
        return self.denoiser(
            x, time, encoder_hidden_states=condition["text"], added_cond_kwargs=added, return_dict=False
        )[0]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """As other models, with the autoencoder's own mean and spread where it has them."""
        plain = super().encode_pixels(pixels)
        moments = self._moments(plain)
        if moments is None:
            return plain
        mean, std = moments
        return (plain / self.vae.config.scaling_factor - mean) / std * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """As other models, with the autoencoder's own mean and spread where it has them."""
        moments = self._moments(latents)
        if moments is None:
            return super().decode(latents)
        mean, std = moments
        raw = latents * std / self.vae.config.scaling_factor + mean
        return self.vae.decode(raw, return_dict=False)[0]

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        config = self.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return None
        mean, std = (
            torch.tensor(values).to(like).reshape(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


class PixArt(Backbone):
    """PixArt-alpha and -sigma: a transformer with cross-attention to T5."""

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """T5's hidden states and their mask."""
        text, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.denoiser.device,
            max_sequence_length=options.max_prompt_tokens,
        )
        return {"text": text, "mask": mask}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """One pass of the transformer; a learned variance is left out."""
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.config.get("use_additional_conditions") or self.denoiser.config.sample_size == 128:
            high, wide = self.size(options)
            added["resolution"] = torch.tensor([[high, wide]], dtype=x.dtype, device=x.device).expand(
                len(x), -1
            )
            added["aspect_ratio"] = torch.full((len(x), 1), high / wide, dtype=x.dtype, device=x.device)
        out = self.denoiser(
            x,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=time,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * x.shape[1] else out


class Drawing(Backbone):
    """The embedded pipeline of the drawings world: a transformer over pixels."""

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """The encoder's hidden states and their mask."""
        text, mask = self.pipeline.encode_prompt(list(prompts))
        return {"text": text, "mask": mask}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """One pass of the transformer."""
        return self.denoiser(
            x, time, condition["text"], encoder_attention_mask=condition["mask"], return_dict=False
        )[0]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The pixels themselves."""
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        """The pixels themselves."""
        return latents

    def _scale(self) -> int:
        return 1

    def _factor(self) -> int:
        return int(self.denoiser.config.get("patch_size", 1) or 1)
