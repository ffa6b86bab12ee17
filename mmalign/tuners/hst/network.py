"""The hierarchical side network: a small pyramid that reads one token and one map from every block of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.errors import UserError

__all__ = ["Bridge", "SideBlock", "SideNetwork", "SideSizes", "grid_of", "stage_depths"]


@dataclass(frozen=True, slots=True)
class SideSizes:
    """Shapes of a side network.

    Args:
        dim: channels of the backbone.
        depth: blocks of the backbone; each feeds one side block.
        widths: channels per stage.
        heads: attention heads per stage.
        stride: of the first stage in pixels; it doubles from stage to stage.
        patchify: enter by one convolution of that size and stride, instead of two with a norm (an even stride).
    """

    dim: int
    depth: int
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    stride: int = 4
    patchify: bool = False

    def count(self) -> int:
        """Parameters by formula: stem, patch embeddings, blocks, stage norms, bridges."""
        first, pairs = self.widths[0], zip(self.widths, self.widths[1:], strict=False)
        if self.patchify:
            total = 3 * self.stride**2 * first + first + 2 * first
        else:
            total = 27 * first + 2 * first + (self.stride // 2) ** 2 * first * first + first + 2 * first
        total += sum(9 * a * b + 3 * b for a, b in pairs)
        for width, blocks in zip(self.widths, stage_depths(self.depth, len(self.widths)), strict=True):
            total += (
                blocks * (12 * width * width + 13 * width + 2 * width) + 2 * width + (self.dim + 1) * width
            )
        return total


def stage_depths(depth: int, stages: int) -> tuple[int, ...]:
    """Blocks per stage: equal, the later stages one more where it does not divide.

    Raises:
        UserError: for more stages than blocks.
    """
    if depth < stages:
        raise UserError(
            f"hst: {stages} stages need at least as many blocks, the backbone has {depth}; give fewer widths"
        )
    return tuple(depth // stages + (k >= stages - depth % stages) for k in range(stages))


def grid_of(tokens: int, image: Tensor) -> tuple[int, int]:
    """Rows and columns of the patch map of an image ``[B, C, H, W]``.

    Raises:
        UserError: where the tokens are no grid of the image's shape.
    """
    high, wide = image.shape[-2:]
    rows = round((tokens * high / wide) ** 0.5)
    if rows == 0 or tokens % rows:
        raise UserError(f"hst: {tokens} patch tokens are no grid over an image of {high}x{wide}")
    return rows, tokens // rows


class Bridge(nn.Module):
    """Takes a block's two outputs to a stage's width: one linear map for both, a norm per block for the token.

    Equation: ``m' = LN_l(T m)``, ``f' = resize(T f)``.
    """

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))

    def forward(
        self, block: int, meta: Tensor, patches: Tensor, grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Token ``[B, 1, c]`` and map ``[B, H * W, c]`` of block ``block`` of the stage, at ``size``."""
        fine = self.linear(patches).transpose(1, 2).unflatten(2, grid)
        if grid != size:
            fine = F.interpolate(fine, size=size, mode="bilinear", align_corners=False)
        return self.norms[block](self.linear(meta)), fine.flatten(2).transpose(1, 2)


class SideBlock(nn.Module):
    """Cross-attention to two tokens, injection of the fine map, MLP; linear in the number of places.

    Equation: ``x += Attn(LN x, [m'; mean f'])``, ``x += f'``, ``x += MLP(LN x)``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"hst: a width of {width} does not divide into {heads} heads")
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, meta: Tensor, fine: Tensor) -> Tensor:
        """The stage's tokens ``[B, N, c]`` after the block."""
        memory = torch.cat([meta, fine.mean(1, keepdim=True)], dim=1)
        q, k, v = self.query(self.norm1(x)), self.key(memory), self.value(memory)
        parted = [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*parted).transpose(1, 2).flatten(2)
        x = x + self.out(mixed) + fine
        return x + self.mlp(self.norm2(x))


class SideNetwork(nn.Module):
    """Stem from the image, then stages of side blocks, each block fed by one block of the backbone."""

    def __init__(self, sizes: SideSizes, channels: int = 3) -> None:
        super().__init__()
        self.depths = stage_depths(sizes.depth, len(sizes.widths))
        self.stem = _stem(sizes, channels)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes.widths, sizes.widths[1:], strict=False)
        )
        self.entries = nn.ModuleList(nn.LayerNorm(width) for width in sizes.widths)
        self.bridges = nn.ModuleList(
            Bridge(sizes.dim, w, n) for w, n in zip(sizes.widths, self.depths, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(SideBlock(w, h) for _ in range(n))
            for w, h, n in zip(sizes.widths, sizes.heads, self.depths, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes.widths)

    def forward(self, image: Tensor, features: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Maps ``[B, c_i, H / stride / 2^i, W / stride / 2^i]`` of every stage.

        Args:
            image: ``[B, C, H, W]``.
            features: per block of the backbone its token ``[B, 1, D]`` and its patches ``[B, N, D]``.
        """
        grid, maps, number, x = grid_of(features[0][1].shape[1], image), [], 0, self.stem(image)
        for stage, blocks in enumerate(self.stages):
            x = self.downs[stage - 1](x) if stage else x
            size = (x.shape[2], x.shape[3])
            tokens = self.entries[stage](x.flatten(2).transpose(1, 2))
            found: Any = blocks
            for place, block in enumerate(found):
                tokens = block(tokens, *self.bridges[stage](place, *features[number], grid, size))
                number += 1
            x = self.norms[stage](tokens).transpose(1, 2).unflatten(2, size)
            maps.append(x)
        return maps


def _stem(sizes: SideSizes, channels: int) -> nn.Module:
    first, stride = sizes.widths[0], sizes.stride
    if sizes.patchify:
        return nn.Conv2d(channels, first, stride, stride)
    if stride % 2:
        raise UserError(f"hst: the first stage's stride is even, not {stride}")
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, 2, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, first, stride // 2, stride // 2),
    )
