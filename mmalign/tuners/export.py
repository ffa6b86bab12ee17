"""Adapters of this package as what the owner libraries read: a plain LoRA for peft, whole weights for timm."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor

from mmalign.errors import UserError
from mmalign.tuners.definition import part_states
from mmalign.tuners.delta import DeltaPart, LowRank

__all__ = ["export_lora", "lora_factors"]


def lora_factors(model: PeftModel) -> dict[str, tuple[Tensor, Tensor]]:
    """``module -> (A [r, n], B [m, r])`` with scale 1, of an adapter of low-rank blocks only.

    Raises:
        UserError: for an adapter that holds anything else.
    """
    factors = {}
    for name, layer in part_states(model).items():
        for part in layer.parts():
            if not isinstance(part, DeltaPart) or len(part.values) or set(part.low) != {"weight"}:
                raise UserError(
                    f"{name}: holds a {part.kind} part that no LoRA equals; merge the adapter (merge_and_unload) and "
                    "save the whole weights"
                )
            tall = layer.get_base_layer().get_parameter("weight").shape[0]
            pieces = [_rows(block, tall) for block in part.blocks("weight")]
            factors[name] = (torch.cat([a for a, _ in pieces]), torch.cat([b for _, b in pieces], dim=1))
    if not factors:
        raise UserError("the model carries no adapter of this package")
    return factors


def export_lora(model: PeftModel, folder: Path) -> None:
    """Write the adapter so that stock peft (without this package) loads it onto the unchanged base.

    Raises:
        UserError: for an adapter that no LoRA equals.
    """
    factors = lora_factors(model)
    ranks = {name: a.shape[0] for name, (a, _) in factors.items()}
    most = max(ranks.values())
    config = LoraConfig(
        r=most,
        lora_alpha=most,
        target_modules=list(factors),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        base_model_name_or_path=model.peft_config["default"].base_model_name_or_path,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.detach().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")


def _rows(block: LowRank, tall: int) -> tuple[Tensor, Tensor]:
    a, b = block.factors()
    whole = b.new_zeros(tall, b.shape[1])
    whole[block.start : block.stop] = b
    return a, whole
