"""The tuners ``hst`` (faithful) and ``lst`` (detached: nothing flows back through the backbone)."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from mmalign.config.fields import Bool, Count, PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.family.prompts import first_tokens
from mmalign.tuners.tuner import SiteConfig

__all__ = ["HST", "LST", "DetachedOptions", "SideOptions", "SideTuning"]


class SideOptions(Section):
    """The side network's sizes and what it answers."""

    widths: tuple[PositiveCount, ...] = (32, 48, 64, 72)
    """Channels per stage; at most one stage per block of the backbone."""
    heads: tuple[PositiveCount, ...] = (2, 4, 8, 12)
    """Attention heads per stage."""
    stride: PositiveCount = 4
    """Of the first stage, in pixels; it doubles from stage to stage."""
    every: PositiveCount = 1
    """Read every so-many-th block, counted from the last."""
    head: Literal["classes", "dense"] = "classes"
    """One answer per image, or one per pixel."""
    classes: Count = 0
    """How many classes; 0 takes as many as the model's own head has."""


class DetachedOptions(SideOptions):
    """The side network's sizes, and whether it answers alone; without sizes it is one ladder at the patches' places."""

    widths: tuple[PositiveCount, ...] = ()
    """Channels per stage; empty is one stage of a twelfth of the backbone's."""
    heads: tuple[PositiveCount, ...] = ()
    """Attention heads per stage; empty is 2 in each."""
    stride: Count = 0
    """Of the first stage, in pixels; 0 is the backbone's patch size, entered by one convolution."""
    every: PositiveCount = 2
    """Read every so-many-th block, counted from the last; LST drops side layers too."""
    residual: Bool = False
    """Add to the model's own output, from a head that starts at 0, instead of answering in its place."""


class SideTuning:
    """A pyramid beside the backbone, fed by every block.

    *hst*: a trained token at every block is read with the block's patch map, and the norms of the backbone's blocks
    train too; gradients flow back through the backbone.  *lst*: the backbone runs without gradient, the class token
    is read in the trained token's place, and the backbone stays as it is.  Neither merges.

    Reference: Lin et al. 2023, arXiv 2310.05393 (HST, third version: meta tokens, bridge, side blocks);
    Sung et al. 2022, arXiv 2206.06522 (LST, where the side network is a slimmer copy of the backbone).
    Differs from the authors' code: the head reads the last stage's width (there the backbone's, a shape error), the
    map is projected before it is resized (equal, and cheaper), the images are not resized.
    """

    def __init__(self, name: str, *, detach: bool) -> None:
        self.name = name
        self.identity = False
        self.answers = True
        self.Options = DetachedOptions if detach else SideOptions
        self._detach = detach

    def plan(self, anatomy: Anatomy, options: SideOptions, probe: Probe | None) -> Plan:
        """Sites that keep features, trained norms (hst), and the side network at the root."""
        if anatomy.scope:
            raise UserError(
                f"{self.name}: the side network answers for the whole model; leave the scope empty"
            )
        if len(options.widths) != len(options.heads):
            raise UserError(
                f"{self.name}: widths and heads differ in number ({options.widths}, {options.heads})"
            )
        if anatomy.entrance() is None and all(block.is_attention for block in anatomy.blocks):
            raise UserError(
                f"{self.name}: needs a backbone that reads images [B, C, H, W] and has a class token"
            )
        after, wide = first_tokens(anatomy), anatomy.width(anatomy.blocks[0])
        sites: dict[str, list[dict[str, Any]]] = {}
        blocks = anatomy.blocks[::-1][:: options.every][::-1]
        for block in blocks:
            meta = {"kind": "prompts", "n": 1, "dim": wide, "after": after, "init": "xavier", "keep": True}
            sites[block.name] = [{"kind": "keep", "after": after} if self._detach else meta]
        if not self._detach:
            for norm in anatomy.block_norms():
                vectors = {key: {"k": "all"} for key, _ in anatomy.modules[norm].named_parameters()}
                sites[norm] = [{"kind": "delta", "params": vectors}]
        conv = next((m for m in anatomy.modules.values() if isinstance(m, nn.Conv2d)), None)
        side = {
            "kind": "side",
            "blocks": [block.name for block in blocks],
            "classes": options.classes or self._classes(anatomy, options),
            "channels": conv.in_channels if conv is not None else 3,
            "head": options.head,
            "detach": self._detach,
            "residual": isinstance(options, DetachedOptions) and options.residual,
        }
        sites[""] = [{**side, "dim": wide, **self._sizes(options, wide, conv)}]
        return Plan(SiteConfig(peft_type="MMALIGN_SIDE", plan=sites))

    def _sizes(self, options: SideOptions, wide: int, conv: nn.Conv2d | None) -> dict[str, Any]:
        widths = options.widths or (max(2, wide // 24 * 2),)
        heads = options.heads or (2,) * len(widths)
        stride = options.stride or (conv.stride[0] if conv is not None else 4)
        if len(widths) != len(heads):
            raise UserError(f"{self.name}: widths and heads differ in number ({widths}, {heads})")
        return {
            "widths": list(widths),
            "heads": list(heads),
            "stride": stride,
            "patchify": not options.stride,
        }

    def _classes(self, anatomy: Anatomy, options: SideOptions) -> int:
        heads = [m for n, m in anatomy.modules.items() if isinstance(m, nn.Linear) and anatomy.is_head(n)]
        if not heads or options.head == "dense":
            raise UserError(f"{self.name}: say how many classes there are (classes: ...)")
        return heads[-1].out_features


HST = SideTuning("hst", detach=False)
LST = SideTuning("lst", detach=True)
