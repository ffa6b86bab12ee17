"""The embedded text-to-image pipeline: word tokenizer, small text encoder, transformer, DDIM; no latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from mmalign.worlds.drawings.transformer import DrawingTransformer

__all__ = ["DrawingPipeline"]

_MOST_NOISE = 1 - 1e-6
"""Largest eta handed to the scheduler: at zero terminal SNR and eta 1 it takes the root of a rounding error."""


class DrawingPipeline(DiffusionPipeline):
    """Text to picture in pixel space, saved and loaded like any diffusers pipeline (no remote code).

    Args:
        tokenizer: words to ids, padded to ``model_max_length``.
        text_encoder: the prompt's tokens ``[B, L, C]``.
        transformer: the denoiser.
        scheduler: DDIM; its ``prediction_type`` says what the transformer predicts.
    """

    model_cpu_offload_seq = "text_encoder->transformer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: CLIPTextModel,
        transformer: DrawingTransformer,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, scheduler=scheduler
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def encode_prompt(self, prompt: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompt tokens ``[B, L, C]`` and their mask ``[B, L]`` (true on real tokens); "" is the null prompt."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        mask = encoded["attention_mask"].to(self.device)
        hidden = self.text_encoder(encoded["input_ids"].to(self.device), attention_mask=mask)
        return hidden.last_hidden_state, mask.bool()

    def prepare_latents(
        self, n: int, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """Starting noise ``[n, 3, S, S]``, scaled for the scheduler."""
        shape = (
            n,
            self.transformer.config.in_channels,
            *(self.transformer.config.sample_size,) * 2,
        )
        noise = randn_tensor(shape, generator=generator, device=self.device, dtype=self.transformer.dtype)
        return noise * self.scheduler.init_noise_sigma

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        eta: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw pictures.

        Args:
            prompt: one prompt or several.
            num_inference_steps: denoising steps.
            guidance_scale: classifier-free guidance; 1 is none.
            eta: DDIM's share of fresh noise, 0 deterministic to 1.
            num_images_per_prompt: pictures per prompt, prompt-major.
            generator: one generator, or one per picture.
            latents: starting noise ``[B, 3, S, S]``; drawn when None.
            output_type: "pil", "np" (``[B, S, S, 3]`` in 0..1) or "pt" (``[B, 3, S, S]`` in 0..1).
            return_dict: give an ``ImagePipelineOutput`` instead of a tuple.
        """
        hidden, mask = self.encode_prompt(prompt)
        hidden = hidden.repeat_interleave(num_images_per_prompt, 0)
        mask = mask.repeat_interleave(num_images_per_prompt, 0)
        n, guided = len(hidden), guidance_scale != 1.0
        if guided:
            null, null_mask = self.encode_prompt("")
            hidden = torch.cat([null.expand(n, -1, -1), hidden])
            mask = torch.cat([null_mask.expand(n, -1), mask])
        x = self.prepare_latents(n, generator) if latents is None else latents
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        for t in self.progress_bar(self.scheduler.timesteps):
            inputs = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            out = self.transformer(inputs, t, hidden, encoder_attention_mask=mask, return_dict=False)[0]
            if guided:
                without, with_prompt = out.chunk(2)
                out = without + guidance_scale * (with_prompt - without)
            x = self.scheduler.step(
                out, t, x, eta=min(eta, _MOST_NOISE), generator=generator, return_dict=False
            )[0]
        images = self.image_processor.postprocess(x, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
