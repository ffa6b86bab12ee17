"""Tiny backbones of every family, their inputs, and a probe; weights are random and the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from open_clip.transformer import VisionTransformer as ClipTower
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification

torch.set_num_threads(1)
CLASSES = 5


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_classes": CLASSES,
    }
    model = timm.models.vision_transformer.VisionTransformer(**{**sizes, **options}).eval()
    nn.init.normal_(model.head.weight, std=0.1) if isinstance(model.head, nn.Linear) else None
    return model


def swin() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.swin_transformer.SwinTransformer(
        img_size=16,
        patch_size=2,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=4,
        num_classes=CLASSES,
    ).eval()


def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.convnext.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), kernel_sizes=3, num_classes=CLASSES, ls_init_value=1.0
    ).eval()


def clip() -> nn.Module:
    torch.manual_seed(0)
    return ClipTower(
        image_size=16, patch_size=8, width=32, layers=2, heads=2, mlp_ratio=2.0, output_dim=CLASSES
    ).eval()


class _Logits(nn.Module):
    """An audio spectrogram transformer that takes spectrograms and gives logits."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        self.ast = ASTForAudioClassification(
            ASTConfig(**sizes, num_mel_bins=16, max_length=32, num_labels=CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ast(x).logits


def ast() -> nn.Module:
    torch.manual_seed(0)
    return _Logits().eval()


BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (vit, (3, 16, 16)),
    "swin": (swin, (3, 16, 16)),
    "convnext": (convnext, (3, 64, 64)),
    "clip": (clip, (3, 16, 16)),
    "ast": (ast, (32, 16)),
}


def inputs(name: str, n: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n, *BACKBONES[name][1], generator=torch.Generator().manual_seed(seed))


def losses(name: str, n: int = 3) -> Callable[[nn.Module], Iterator[Tensor]]:
    """Cross-entropies of ``n`` fixed minibatches."""

    def probe(model: nn.Module) -> Iterator[Tensor]:
        for seed in range(n):
            yield nn.functional.cross_entropy(model(inputs(name, 4, 100 + seed)), torch.arange(4))

    return probe


def build(backbone: str) -> nn.Module:
    return BACKBONES[backbone][0]()


def train(
    model: nn.Module, backbone: str, answer: Callable[[Tensor], Tensor] | None = None, steps: int = 2
) -> set[str]:
    """A few steps on ``answer(x)``, the model's own by default; names of trainable tensors that never had a gradient."""
    torch.manual_seed(0)
    model.train()
    silent = {name for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        out = (answer or model)(inputs(backbone, 4, 50 + step))
        nn.functional.cross_entropy(out, torch.arange(4)).backward()
        silent -= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    model.eval()
    return silent
