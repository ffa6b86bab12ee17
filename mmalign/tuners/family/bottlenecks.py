"""Bottleneck adapters in their places: sequential (Houlsby, Pfeiffer), parallel, AdaptFormer, MAM."""

from __future__ import annotations

from typing import Any, Literal

from mmalign.config.fields import Bool, Count, Positive, PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy, Block
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.tuner import SiteConfig

__all__ = [
    "ADAPTER",
    "ADAPTFORMER",
    "MAM",
    "AdaptFormer",
    "AdaptFormerOptions",
    "Adapter",
    "AdapterOptions",
    "Mam",
]


class AdapterOptions(Section):
    """A bottleneck adapter's size and place."""

    hidden: PositiveCount = 16
    """Width of the bottleneck."""
    at: Literal["mlp", "attention", "both"] = "mlp"
    """``mlp`` is Pfeiffer's place, ``both`` is Houlsby's."""
    place: Literal["sequential", "parallel"] = "sequential"
    """On the module's output, or beside the module on its input."""
    act: Literal["relu", "gelu", "silu", "none"] = "gelu"
    """Between the two projections."""
    scale: Positive = 1.0
    """Factor on what the adapter adds."""


class Adapter:
    """A bottleneck after (or beside) the MLP and the attention of every block.

    Equation: ``y + s Up(act(Down y))`` (sequential), ``y + s Up(act(Down x))`` (parallel).

    Reference: Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247.
    """

    name = "adapter"
    identity = True
    Options = AdapterOptions

    def plan(self, anatomy: Anatomy, options: AdapterOptions, probe: Probe | None) -> Plan:
        """One adapter part per chosen module."""
        sites = {}
        for block in anatomy.blocks:
            for module in _places(anatomy, block, options.at):
                sites[module] = [bottleneck(anatomy, block, module, options.hidden, options)]
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


class AdaptFormerOptions(Section):
    """AdaptFormer's size."""

    hidden: PositiveCount = 64
    """Width of the bottleneck."""
    scale: Positive = 0.1
    """Factor on what the branch adds."""


class AdaptFormer:
    """A scaled ReLU bottleneck beside every MLP, reading what the MLP reads.

    Equation: ``MLP(LN x) + s Up(ReLU(Down(LN x))) + x``, ``s = 0.1``.

    Reference: Chen et al. 2022, arXiv 2205.13535, equations 2 and 3.
    """

    name = "adaptformer"
    identity = True
    Options = AdaptFormerOptions

    def plan(self, anatomy: Anatomy, options: AdaptFormerOptions, probe: Probe | None) -> Plan:
        """One parallel adapter per MLP."""
        beside = AdapterOptions(hidden=options.hidden, place="parallel", act="relu", scale=options.scale)
        sites = {b.mlp: [bottleneck(anatomy, b, b.mlp, options.hidden, beside)] for b in anatomy.blocks}
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


class MamOptions(Section):
    """The mix-and-match adapter's sizes."""

    hidden: PositiveCount = 16
    """Width of the bottleneck beside the MLP."""
    scale: Positive = 4.0
    """Factor on what the bottleneck adds."""
    prefix: Count = 8
    """Trained keys and values before each attention; 0 leaves the attention alone."""
    gate: Bool = True
    """Start the prefix at no influence; false is the paper's prefix, which changes the model from the start."""


class Mam:
    """Prefixes at the attention and a scaled parallel bottleneck at the MLP (mix-and-match).

    Reference: He et al. 2022, arXiv 2110.04366, section 4.5.
    Differs from paper: the prefix has a gate that starts at 0, unless ``gate`` is false.
    """

    name = "mam"
    identity = True
    Options = MamOptions

    def plan(self, anatomy: Anatomy, options: MamOptions, probe: Probe | None) -> Plan:
        """A prefix per attention and a parallel adapter per MLP."""
        beside = AdapterOptions(hidden=options.hidden, place="parallel", act="relu", scale=options.scale)
        sites: dict[str, list[dict[str, Any]]] = {}
        for block in anatomy.blocks:
            sites[block.mlp] = [bottleneck(anatomy, block, block.mlp, options.hidden, beside)]
            if options.prefix:
                heads = getattr(anatomy.modules[block.mixer], "num_heads", None)
                if heads is None or not hasattr(anatomy.modules[block.mixer], "q_norm"):
                    kind = type(anatomy.modules[block.mixer]).__name__
                    raise UserError(f"mam: prefixes need timm's Attention, not {kind}; set prefix: 0")
                spec = {
                    "n": options.prefix,
                    "heads": heads,
                    "dim": anatomy.width(block),
                    "gate": options.gate,
                }
                sites[block.mixer] = [{"kind": "prefix", **spec}]
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


def bottleneck(
    anatomy: Anatomy, block: Block, module: str, hidden: int, options: AdapterOptions
) -> dict[str, Any]:
    """The plan entry of a bottleneck at a block's MLP or attention, its widths read from the block."""
    wide = anatomy.width(block)
    reads = anatomy.mlp_input(block) if options.place == "parallel" and module == block.mlp else wide
    sizes = {"in": reads, "out": wide, "hidden": hidden}
    return {"kind": "adapter", **sizes, "place": options.place, "act": options.act, "scale": options.scale}


def _places(anatomy: Anatomy, block: Block, at: str) -> list[str]:
    if at != "mlp" and not block.is_attention:
        raise UserError(f"adapter: {block.name} has no attention; set at: mlp")
    return {"mlp": [block.mlp], "attention": [block.mixer], "both": [block.mixer, block.mlp]}[at]


ADAPTER = Adapter()
ADAPTFORMER = AdaptFormer()
MAM = Mam()
