"""Settings of the diffusion adapter (``model.options``, and ``evaluate.options`` while answers are evaluated)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from mmalign.config.fields import Bool, NonNegative, Positive, PositiveCount, Section, Share

__all__ = ["DiffusionOptions"]


class DiffusionOptions(Section):
    """How pictures are drawn, and how drawn steps and given pictures are scored."""

    num_inference_steps: PositiveCount = 10
    """Denoising steps per picture; the stage's longest answer bounds them too."""
    sampler: Literal["auto", "ddim", "ode", "sde"] = "auto"
    """``ddim``, or the flow's ``sde`` (Flow-GRPO) or ``ode`` (no noise), which also serve models that predict noise;
    ``auto`` is the model's own: ``ddim``, or ``sde`` where it matches flows."""
    eta: NonNegative = 1.0
    """Noise of a DDIM step as a share of the DDPM posterior's; 0 is deterministic.  The temperature multiplies it."""
    sde_a: NonNegative = 0.7
    """Noise level of the flow SDE, ``sigma = a sqrt(s / (1 - s))``; the temperature multiplies it."""
    guidance_scale: Positive = 1.0
    """Classifier-free guidance, the same in sampling and in the log-probability; 1 is none."""
    negative_prompt: str = ""
    """The prompt that guidance moves away from."""
    reduction: Literal["sum", "mean"] = "mean"
    """Log-densities of a step are summed or averaged over its dimensions; the clip follows (``cliprange: null``)."""
    train_fraction: Share = 1.0
    """Share of an answer's random steps that are recorded, scored and trained, chosen at random for each answer."""
    train_until: Share = 1.0
    """Only steps in this first share of the chain are recorded.  A step's score has the variance of the signal-to-noise
    ratio it gains, which grows without bound towards the end: the last steps draw detail, decide no layout, and drown
    what the others say (docs/modalities/diffusion.md)."""
    height: PositiveCount | None = None
    """Height of the pictures in pixels; null is the model's own."""
    width: PositiveCount | None = None
    """Width of the pictures in pixels; null is the model's own."""
    score: Literal["auto", "denoising"] = "auto"
    """``auto`` scores recorded steps by their density and pictures by their denoising error; ``denoising`` scores
    sampled answers by the error of the picture, too (RAFT, online Diffusion-DPO)."""
    draws: PositiveCount = 1
    """Noise levels per picture that a denoising error is averaged over."""
    weighting: Literal["native", "epsilon", "v_prediction", "sample", "min_snr"] = "native"
    """The target in whose units a denoising error is measured; ``native`` is the network's own."""
    snr_gamma: Positive = 5.0
    """Bound on the signal-to-noise ratio under ``weighting: min_snr``."""
    prompt_dropout: Share = 0.0
    """Share of denoising errors taken with the empty prompt, so that guidance stays possible."""
    sample_batch: PositiveCount = 64
    """Pictures drawn at once; changes memory and speed, never the result."""
    max_prompt_tokens: PositiveCount = 77
    """Longest prompt of a T5 encoder, in tokens; CLIP encoders have 77 by construction."""
    grad_from: Share | None = None
    """Pathwise: stop at a random step of the sampler's last part that begins at this share and predict the picture
    from there in one call (ReFL: 0.75); null runs the whole chain (DRaFT, AlignProp)."""
    last_draws: PositiveCount = 1
    """Pathwise, with gradient through the last step alone: above 1 the finished picture is noised back to that step so
    often and the gradients are averaged (DRaFT-LV: 2)."""
    checkpointing: Bool = True
    """Pathwise: recompute each step's activations in the backward pass instead of keeping them."""
    cache_text: Bool = True
    """Keep the embeddings of prompts; off by itself while a text encoder trains."""
    cache_latents: Bool = True
    """Keep the latents of given pictures; off by itself while the VAE trains."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("train_fraction", "train_until"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name}: expected a share above 0")
        return self
