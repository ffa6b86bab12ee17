"""The flow-matching pipelines: Stable Diffusion 3 and Flux."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.modalities.diffusion.backbones import Backbone, Condition
from mmalign.modalities.diffusion.flow_schedules import FlowSchedule
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.schedules import Schedule

__all__ = ["Flux", "StableDiffusion3"]


class StableDiffusion3(Backbone):
    """Stable Diffusion 3: a flow-matching transformer with two CLIP encoders and, where it is there, T5."""

    flow = True

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """The joined hidden states and the pooled ones."""
        texts = list(prompts)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, texts, device=self.denoiser.device, do_classifier_free_guidance=False,
            max_sequence_length=options.max_prompt_tokens,
        )  # fmt: skip
        return {"text": text, "pooled": pooled}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """The velocity."""
        return self.denoiser(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=condition["text"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]

    def _factor(self) -> int:
        return self._scale() * int(self.denoiser.config.patch_size)


class Flux(Backbone):
    """Flux: a flow-matching transformer over packed latents, with CLIP's pooled state and T5.

    A guidance-distilled model takes ``guidance_scale`` as an input, so nothing is guided outside of it.
    """

    flow = True

    def schedule(self) -> Schedule:
        """The flow schedule from evenly spaced levels, as the pipeline makes it."""
        made = FlowSchedule(self.pipeline.scheduler.config)
        made.even_sigmas = not self.pipeline.scheduler.config.get("use_flow_sigmas", False)
        return made

    def encode(self, prompts: Sequence[str], options: DiffusionOptions) -> Condition:
        """T5's hidden states and CLIP's pooled state."""
        texts = list(prompts)
        text, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, device=self.denoiser.device, max_sequence_length=options.max_prompt_tokens
        )
        return {"text": text, "pooled": pooled}

    def predict(self, x: Tensor, time: Tensor, condition: Condition, options: DiffusionOptions) -> Tensor:
        """The velocity, packed for the network and unpacked again."""
        n, channels, high, wide = x.shape
        told = None
        if self.denoiser.config.guidance_embeds:
            told = torch.full((n,), options.guidance_scale, dtype=torch.float32, device=x.device)
        places = self.pipeline._prepare_latent_image_ids(n, high // 2, wide // 2, x.device, x.dtype)
        words = torch.zeros(condition["text"].shape[1], 3, device=x.device, dtype=x.dtype)
        out = self.denoiser(
            hidden_states=self.pipeline._pack_latents(x, n, channels, high, wide),
            timestep=time / 1000,
            guidance=told,
            pooled_projections=condition["pooled"],
            encoder_hidden_states=condition["text"],
            txt_ids=words,
            img_ids=places,
            return_dict=False,
        )[0]
        scale = self._scale()
        return self.pipeline._unpack_latents(out, high * scale, wide * scale, scale)

    def tokens(self, options: DiffusionOptions) -> int:
        """Packed patches of two by two."""
        _, high, wide = self.shape(options)
        return (high // 2) * (wide // 2)

    def _channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

    def _factor(self) -> int:
        return 2 * self._scale()

    def _own_size(self) -> int:
        return int(self.pipeline.default_sample_size) * self._scale()
