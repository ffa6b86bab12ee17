"""The side network at the root of a model, and its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.tuners.hst.network import SideNetwork, SideSizes
from mmalign.tuners.layer import SiteLayer
from mmalign.tuners.parts import Inner, Part, first_input, register_part

__all__ = ["ClassHead", "DenseHead", "SidePart"]


class ClassHead(nn.Module):
    """Mean over places of the last stage, BatchNorm without weights, linear."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(widths[-1], affine=False)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Logits ``[B, K]``.

        Raises:
            UserError: when training on a batch of one image.
        """
        if self.training and len(image) == 1:
            raise UserError("hst: BatchNorm cannot train on a batch of one image; take a larger batch")
        return self.linear(self.norm(maps[-1].mean((2, 3))))


class DenseHead(nn.Module):
    """All stages brought to the first's stride, one 1x1 convolution, enlarged to the image."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(sum(widths), classes, 1)

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Logits ``[B, K, H, W]``."""
        size = (maps[0].shape[2], maps[0].shape[3])
        level = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
        out = self.linear(torch.cat(level, dim=1))
        return F.interpolate(out, size=(image.shape[2], image.shape[3]), mode="bilinear", align_corners=False)


@register_part
class SidePart(Part):
    """Answers in the model's place from what its blocks kept; the model itself only feeds it.

    Plan entry (at ``""``): ``{"kind": "side", "blocks": [names], "dim", "widths", "heads", "stride",
    "patchify", "classes", "channels", "head": "classes" | "dense", "detach", "residual"}``.
    """

    kind = "side"

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        widths = tuple(spec["widths"])
        self.network = SideNetwork(_sizes(spec), int(spec.get("channels", 3)))
        self.head = (DenseHead if spec["head"] == "dense" else ClassHead)(widths, int(spec["classes"]))
        final: Any = self.head.linear
        nn.init.zeros_(final.bias)
        if spec.get("residual"):
            nn.init.zeros_(final.weight)
        else:
            nn.init.trunc_normal_(final.weight, std=0.02)
        self._base = (base,)

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """The network's formula, a correction for other than 3 channels, and the head's linear map."""
        widths = list(spec["widths"])
        reads = sum(widths) if spec["head"] == "dense" else widths[-1]
        sizes = _sizes(spec)
        extra = (sizes.stride**2 if sizes.patchify else 9) * (int(spec.get("channels", 3)) - 3) * widths[0]
        return sizes.count() + extra + (reads + 1) * int(spec["classes"])

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Logits of the side network, added to the model's own where ``residual``."""
        image = first_input(args, options)
        with torch.no_grad() if self.spec.get("detach") else nullcontext():
            output = inner(args, options)
        trained = next(self.network.parameters()).dtype
        features = [(meta.to(trained), patches.to(trained)) for meta, patches in self._features()]
        logits = self.head(self.network(image.to(trained), features), image).to(output.dtype)
        return output + logits if self.spec.get("residual") else logits

    def _features(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for name in self.spec["blocks"]:
            layer: Any = self._base[0].get_submodule(name)
            parts = layer.parts() if isinstance(layer, SiteLayer) else []
            keeper: Any = next((part for part in parts if getattr(part, "kept", None) is not None), None)
            if keeper is None:
                raise UserError(
                    f"hst: block {name} kept nothing; the model's forward did not pass through it"
                )
            found.append(keeper.kept)
            keeper.kept = None
        return found


def _sizes(spec: Mapping[str, Any]) -> SideSizes:
    return SideSizes(
        int(spec["dim"]),
        len(spec["blocks"]),
        tuple(spec["widths"]),
        tuple(spec["heads"]),
        int(spec["stride"]),
    )
