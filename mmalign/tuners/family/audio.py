"""Adapters of the Audio Spectrogram Transformer: convolutional (Conformer) and bottleneck."""

from __future__ import annotations

from typing import Any, Literal

from mmalign.config.fields import Positive, PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.family.bottlenecks import AdapterOptions, bottleneck
from mmalign.tuners.tuner import SiteConfig

__all__ = ["AST", "AstAdapters", "AstOptions"]


class AstOptions(Section):
    """Kind, size and place."""

    kind: Literal["conformer", "bottleneck"] = "conformer"
    """``conformer`` mixes along the tokens, ``bottleneck`` does not."""
    reduction: PositiveCount = 96
    """Width of the model over width of the adapter (at least 1 wide)."""
    kernel: PositiveCount = 31
    """Tokens that the depthwise convolution sees; odd."""
    at: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    """Beside the MLP only, or beside attention and MLP."""
    place: Literal["sequential", "parallel"] = "parallel"
    """On the module's output, or beside it on its input."""
    scale: Positive = 1.0
    """Factor on what the adapter adds."""


class AstAdapters:
    """Conformer or bottleneck adapters, in Pfeiffer's or Houlsby's places, parallel or sequential.

    Reference: Cappellazzo et al. 2023, arXiv 2312.03694.
    Differs from the authors' code: the bottleneck's down-projection is drawn and not 0 (there both projections are 0,
    so that neither ever learns), and the Conformer's LayerNorm acts.
    """

    name = "ast"
    identity = True
    Options = AstOptions

    def plan(self, anatomy: Anatomy, options: AstOptions, probe: Probe | None) -> Plan:
        """One part per chosen module."""
        sites: dict[str, list[dict[str, Any]]] = {}
        for block in anatomy.blocks:
            if not block.is_attention:
                raise UserError(
                    f"ast: {block.name} has no attention; these adapters need blocks of a transformer"
                )
            wide = anatomy.width(block)
            hidden = max(1, wide // options.reduction)
            for module in (block.mlp,) if options.at == "pfeiffer" else (block.mixer, block.mlp):
                if options.kind == "bottleneck":
                    beside = AdapterOptions(
                        hidden=hidden, place=options.place, act="relu", scale=options.scale
                    )
                    sites[module] = [bottleneck(anatomy, block, module, hidden, beside)]
                else:
                    spec = {"dim": wide, "hidden": hidden, "kernel": options.kernel, "place": options.place}
                    sites[module] = [{"kind": "conformer", **spec, "scale": options.scale}]
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


AST = AstAdapters()
