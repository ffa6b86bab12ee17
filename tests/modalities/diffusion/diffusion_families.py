"""Tiny randomly initialised pipelines of real classes, with real schedulers, built without any download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as df
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "red", "green", "blue", "circle", "square", "cross", "left", "of", "and", "two"]
NAMES = ("sd", "sdxl", "pixart", "sd3", "flux", "drawing")
NOISE = ("sd", "sdxl", "pixart", "drawing")
"""Families with a DDIM schedule; the others match flows."""
ATTENTION_WIDTH = 16


def tokenizer(length: int = 12) -> hf.PreTrainedTokenizerFast:
    """A word tokenizer with the special tokens CLIP's pooling expects (the end token has the highest id)."""
    ids = {word: place for place, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS, "</s>"])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, ids[name]) for name in ("<s>", "</s>")]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
    )


def clip(width: int = 16, projected: bool = False) -> Any:
    """A CLIP text encoder whose embeddings differ clearly between words."""
    config = hf.CLIPTextConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=len(WORDS) + 3,
        initializer_factor=8.0,
    )
    return (hf.CLIPTextModelWithProjection if projected else hf.CLIPTextModel)(config)


def t5(width: int = 16) -> hf.T5EncoderModel:
    """A T5 encoder."""
    config = hf.T5Config(
        vocab_size=len(WORDS) + 4,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=1.0,
    )
    return hf.T5EncoderModel(config)


def autoencoder(channels: int = 4, shift: float | None = None) -> df.AutoencoderKL:
    """An autoencoder that halves the picture once."""
    return df.AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        shift_factor=shift,
    )


def ddim(**changes: Any) -> df.DDIMScheduler:
    """The scheduler of Stable Diffusion, as DDIM."""
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return df.DDIMScheduler(**{**settings, **changes})


def unet(**changes: Any) -> df.UNet2DConditionModel:
    """A U-Net of two levels, attention on the lower one."""
    return df.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=changes.pop("attention_head_dim", 8),
        cross_attention_dim=changes.pop("cross_attention_dim", 16),
        **changes,
    )


def sd(**scheduler: Any) -> df.StableDiffusionPipeline:
    """Stable Diffusion."""
    return df.StableDiffusionPipeline(
        autoencoder(),
        clip(),
        tokenizer(),
        unet(),
        ddim(**scheduler),
        None,
        None,
        requires_safety_checker=False,
    )


def sdxl() -> df.StableDiffusionXLPipeline:
    """Stable Diffusion XL."""
    network = unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
        use_linear_projection=True,
    )
    return df.StableDiffusionXLPipeline(
        autoencoder(), clip(), clip(projected=True), tokenizer(), tokenizer(), network, ddim(),
        add_watermarker=False, force_zeros_for_empty_prompt=False,
    )  # fmt: skip


def pixart() -> df.PixArtAlphaPipeline:
    """PixArt."""
    network = df.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=16,
        cross_attention_dim=16,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return df.PixArtAlphaPipeline(tokenizer(), t5(), autoencoder(), network, ddim())


def sd3() -> df.StableDiffusion3Pipeline:
    """Stable Diffusion 3."""
    network = df.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
    )
    return df.StableDiffusion3Pipeline(
        network, df.FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift=0.1), clip(projected=True),
        tokenizer(), clip(projected=True), tokenizer(), t5(32), tokenizer(),
    )  # fmt: skip


def flux() -> df.FluxPipeline:
    """Flux, guidance-distilled."""
    network = df.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    scheduler = df.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = df.FluxPipeline(
        scheduler, autoencoder(shift=0.1), clip(), tokenizer(), t5(32), tokenizer(), network
    )
    pipeline.default_sample_size = 8
    return pipeline


def drawing() -> Any:
    """The embedded pipeline of the drawings world, its output layers awake."""
    from mmalign.worlds.drawings.model import make_pipeline

    made = make_pipeline(0, width=32, layers=1, text_width=32, text_layers=1)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (made.transformer.proj_out, made.transformer.time_modulation):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng) * 0.1)
    return made


_MAKE: dict[str, Callable[[], Any]] = {
    "sd": sd,
    "sdxl": sdxl,
    "pixart": pixart,
    "sd3": sd3,
    "flux": flux,
    "drawing": drawing,
}


def build(name: str, root: Path) -> Path:
    """Make a family's pipeline, wake what starts at zero, and save it; returns its folder."""
    torch.manual_seed(3)
    made = _MAKE[name]()
    core = made.components.get("unet") or made.components["transformer"]
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in core.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))
    folder = root / name
    made.save_pretrained(folder, safe_serialization=True)
    return folder
