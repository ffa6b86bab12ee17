"""Reading and writing diffusers pipelines: safetensors only, no remote code."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign.errors import UserError, nearest
from mmalign.modalities.diffusion import backbones
from mmalign.modalities.diffusion.flow_backbones import Flux, StableDiffusion3
from mmalign.modalities.diffusion.policy import DiffusionPolicy, frozen, policy_of

__all__ = ["PIPELINES", "attach_lora", "load_policy", "policy_around", "save_policy"]

PIPELINES: dict[str, tuple[str, type[backbones.Backbone]]] = {
    "StableDiffusionPipeline": ("diffusers", backbones.StableDiffusion),
    "StableDiffusionXLPipeline": ("diffusers", backbones.StableDiffusionXL),
    "PixArtAlphaPipeline": ("diffusers", backbones.PixArt),
    "PixArtSigmaPipeline": ("diffusers", backbones.PixArt),
    "StableDiffusion3Pipeline": ("diffusers", StableDiffusion3),
    "FluxPipeline": ("diffusers", Flux),
    "DrawingPipeline": ("mmalign.worlds.drawings.pipeline", backbones.Drawing),
}
"""Pipeline classes that can be aligned: where each is found and what serves it."""

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_INDEX = "model_index.json"


def load_policy(source: str, *, device: str, dtype: str) -> DiffusionPolicy:
    """Load a pipeline from a folder or a hub name.

    Raises:
        UserError: when the extra is missing, the source is no pipeline known here, or its weights are not safetensors.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise UserError('modality diffusion needs diffusers: pip install "mmalign[diffusion]"') from error
    if dtype not in _DTYPES:
        raise UserError(f'unknown dtype "{dtype}"{nearest(dtype, _DTYPES)}; one of {", ".join(_DTYPES)}')
    kind = _kind(source)
    module = PIPELINES[kind][0]
    cls: Any = getattr(importlib.import_module(module), kind)
    try:
        with _quiet():
            pipeline = cls.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f'no pipeline could be loaded from "{source}" ({line})') from error
    return policy_around(pipeline).to(device=device, dtype=_DTYPES[dtype])


def policy_around(pipeline: Any) -> DiffusionPolicy:
    """A policy over a pipeline that is already in memory; its denoiser trains, everything else is frozen.

    Raises:
        UserError: when the pipeline's class is not known here.
    """
    kind = type(pipeline).__name__
    if kind not in PIPELINES:
        raise UserError(f"{kind} is not known here{nearest(kind, PIPELINES)}; known: {', '.join(PIPELINES)}")
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionPolicy(PIPELINES[kind][1](pipeline)).eval()


def save_policy(model: nn.Module, folder: Path) -> None:
    """Write the whole pipeline, LoRA merged in, for the class's own ``from_pretrained``.

    Where LoRA is attached, and the pipeline can read such a file, it is also written by itself to
    ``lora/pytorch_lora_weights.safetensors`` for ``load_lora_weights`` on the start model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tuned = model
    while isinstance(getattr(tuned, "module", None), nn.Module):
        tuned = tuned.module  # type: ignore[assignment]
    if hasattr(tuned, "merge_and_unload"):
        _save_lora(tuned, folder / "lora")
        still = [part for part in policy_of(tuned).children() if frozen([part])]
        shared = {id(weight): weight for part in still for weight in part.parameters()}
        tuned = copy.deepcopy(tuned, shared).merge_and_unload()  # type: ignore[operator]
    with _quiet():
        policy_of(tuned).backbone.pipeline.save_pretrained(folder, safe_serialization=True)


def attach_lora(
    policy: DiffusionPolicy, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
) -> nn.Module:
    """Freeze the pipeline and attach LoRA of rank ``r``; the policy starts exactly equal to the model.

    ``all-linear`` is every linear layer of the denoiser; else names or endings of linear layers of the denoiser.

    *Reference:* Hu et al. 2021, arXiv:2106.09685.

    Raises:
        UserError: when no linear layer of the denoiser matches.
    """
    from peft import LoraConfig, get_peft_model

    core = policy.backbone.core
    linears = [
        f"{core}.{name}"
        for name, part in policy.backbone.denoiser.named_modules()
        if isinstance(part, nn.Linear)
    ]
    names = target_modules.split(",") if isinstance(target_modules, str) else list(target_modules)
    chosen = linears if target_modules == "all-linear" else []
    for name in () if chosen else map(str.strip, names):
        found = [linear for linear in linears if linear == name or linear.endswith("." + name)]
        if not found:
            known = {linear.rpartition(".")[2] for linear in linears}
            raise UserError(f'no linear layer of the {core} is called "{name}"{nearest(name, known)}')
        chosen += found
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=chosen, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(policy, config).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch the owner libraries' progress bars off: they tear the progress line of a run."""
    from diffusers.utils import logging as drawing
    from transformers.utils import logging as reading

    bars: list[Any] = [logging for logging in (drawing, reading) if logging.is_progress_bar_enabled()]
    for logging in bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in bars:
            logging.enable_progress_bar()


def _kind(source: str) -> str:
    index = Path(source) / _INDEX
    if index.is_file():
        text = index.read_text(encoding="utf-8")
    else:
        looks_local = source.startswith((".", "~", "/")) or source.count("/") > 1 or Path(source).is_dir()
        if looks_local or not source:
            raise UserError(f'"{source}" holds no {_INDEX}, so it is no folder of a diffusers pipeline')
        from huggingface_hub import hf_hub_download

        try:
            text = Path(hf_hub_download(source, _INDEX)).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f'no {_INDEX} of a diffusers pipeline could be read from "{source}"') from error
    kind = str(json.loads(text).get("_class_name"))
    if kind not in PIPELINES:
        raise UserError(
            f'"{source}" is a {kind}, which is not known here{nearest(kind, PIPELINES)}; known: {", ".join(PIPELINES)}'
        )
    return kind


def _save_lora(tuned: Any, folder: Path) -> None:
    """The adapter's matrices under diffusers' names, ``alpha / r`` multiplied in."""
    policy = policy_of(tuned)
    pipeline, core = policy.backbone.pipeline, policy.backbone.core
    if not hasattr(pipeline, "save_lora_weights"):
        return
    config = tuned.peft_config[tuned.active_adapter]
    scale = config.lora_alpha / config.r
    layers = {}
    for name, value in policy.backbone.denoiser.state_dict().items():
        for part in ("lora_A", "lora_B"):
            if f".{part}.{tuned.active_adapter}." in name:
                plain = name.replace(f".{part}.{tuned.active_adapter}.", f".{part}.")
                layers[plain] = (value * scale if part == "lora_B" else value).contiguous()
    pipeline.save_lora_weights(folder, **{f"{core}_lora_layers": layers}, safe_serialization=True)
