"""Random Stable Diffusion pipelines of any size, made from configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Size", "stable_diffusion"]

_WORDS = ("a", "two", "red", "blue", "green", "yellow", "circle", "square", "squares", "cross", "left", "of")


@dataclass(frozen=True)
class Size:
    """Widths of a pipeline: U-Net channels, latent width, text encoder."""

    channels: tuple[int, ...] = (32, 64)
    latent: int = 16
    text_width: int = 64
    text_layers: int = 4

    @property
    def text(self) -> str:
        """The size in words."""
        shape = " and ".join(map(str, self.channels))
        return f"U-Net {shape} on {self.latent} x {self.latent} latents, CLIP {self.text_width} x {self.text_layers}"


def stable_diffusion(size: Size) -> Any:
    """A ``StableDiffusionPipeline`` with DDIM; equal sizes give equal weights."""
    import diffusers as df
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(_WORDS) + 4,
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=len(_WORDS) + 3,
        initializer_factor=4.0,
    )
    levels = len(size.channels)
    unet = df.UNet2DConditionModel(
        sample_size=size.latent,
        block_out_channels=size.channels,
        layers_per_block=1,
        norm_num_groups=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        attention_head_dim=8,
        cross_attention_dim=size.text_width,
    )
    vae = df.AutoencoderKL(
        block_out_channels=[16, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=2 * size.latent,
    )
    scheduler = df.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    made = df.StableDiffusionPipeline(
        vae, CLIPTextModel(text), _tokenizer(), unet, scheduler, None, None, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    for part in (made.vae, made.text_encoder, made.unet):
        part.eval()
    return made


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: place for place, word in enumerate(("<pad>", "<s>", "<unk>", *_WORDS, "</s>"))}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, ids[name]) for name in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=77,
    )  # fmt: skip
