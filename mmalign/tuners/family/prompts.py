"""Visual prompt tuning, shallow and deep."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmalign.config.fields import Bool, PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.tuner import SiteConfig

__all__ = ["VPT", "VisualPrompts", "VptOptions", "first_tokens"]


class VptOptions(Section):
    """How many prompts, and where."""

    n: PositiveCount = 8
    """Prompts per block that gets some."""
    deep: Bool = True
    """Prompts of their own at every block; false puts one set in before the first block and lets it run through."""


class VisualPrompts:
    """Trained tokens after the class token; deep ones are renewed at every block.

    Not the identity at the start: attention shares its mass with the prompts.  Switched off the model is itself.

    Reference: Jia et al. 2022, arXiv 2203.12119.
    """

    name = "vpt"
    identity = False
    Options = VptOptions

    def plan(self, anatomy: Anatomy, options: VptOptions, probe: Probe | None) -> Plan:
        """Prompts at each block (deep), or put in at the first and taken out at the last (shallow)."""
        if (
            callable(writes := getattr(anatomy.model, "can_generate", None))
            and writes()
            and not anatomy.scope
        ):
            raise UserError("vpt: puts prompts among patches, not among the tokens of a text; name a scope")
        if anatomy.scope and hasattr(anatomy.module, "_can_record_outputs"):
            raise UserError(
                f"vpt: {type(anatomy.module).__name__} hands out what its blocks saw, prompts included; use it on a "
                "whole model, or spt or an adapter on a tower"
            )
        after, fan, last = first_tokens(anatomy), _fan(anatomy), len(anatomy.blocks) - 1
        sites: dict[str, list[dict[str, Any]]] = {}
        for k, block in enumerate(anatomy.blocks):
            entry = {
                "kind": "prompts",
                "n": options.n,
                "dim": anatomy.width(block),
                "after": after,
                "fan": fan,
            }
            if options.deep:
                sites[block.name] = [entry]
            elif k in (0, last):
                sites[block.name] = [{**entry, "insert": k == 0, "remove": k == last}]
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


def first_tokens(anatomy: Anatomy) -> int:
    """How many tokens stand before the patches.

    Raises:
        UserError: for a backbone whose blocks do not read plain tokens ``[B, N, D]``.
    """
    windows = any(hasattr(anatomy.modules[block.name], "window_size") for block in anatomy.blocks)
    if windows or not all(block.is_attention for block in anatomy.blocks):
        raise UserError(
            "prompts need blocks that read tokens [B, N, D]; windows and convolutions have no place for them"
        )
    known = getattr(anatomy.module, "num_prefix_tokens", None)
    if isinstance(known, int):
        return known
    return 1 if anatomy.entrance() is not None else 0


def _fan(anatomy: Anatomy) -> int:
    conv = next(
        (m for n, m in anatomy.modules.items() if isinstance(m, nn.Conv2d) and anatomy.is_stem(n)), None
    )
    if conv is None:
        return anatomy.width(anatomy.blocks[0])
    return conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]


VPT = VisualPrompts()
