"""BitFit, and its sister that trains norms: whole vectors of the model itself, no new module."""

from __future__ import annotations

from typing import Literal

from mmalign.config.fields import Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.tuner import SiteConfig

__all__ = ["BITFIT", "BitFit", "BitFitOptions"]


class BitFitOptions(Section):
    """Which vectors train."""

    what: Literal["biases", "norms", "both"] = "biases"
    """``biases`` is BitFit; ``norms`` trains weight and bias of the norms; ``both`` trains either."""


class BitFit:
    """Train the bias terms alone, as changes that start at 0; merges and exports to the owner library.

    Equation: ``b <- b + delta`` for every bias outside head and stem.

    Reference: Ben Zaken et al. 2022, arXiv 2106.10199.
    """

    name = "bitfit"
    identity = True
    Options = BitFitOptions

    def plan(self, anatomy: Anatomy, options: BitFitOptions, probe: Probe | None) -> Plan:
        """A delta of all numbers of each vector."""
        norms = set(anatomy.norms())
        plan: dict[str, dict[str, object]] = {}
        for module, key, tensor in anatomy.candidates():
            is_bias = tensor.ndim == 1 and key.rpartition(".")[2].endswith("bias")
            chosen = {"biases": is_bias, "norms": module in norms, "both": is_bias or module in norms}
            if chosen[options.what]:
                plan.setdefault(module, {})[key] = {"k": "all"}
        if not plan:
            raise UserError(f"bitfit: {anatomy.scope or 'the model'} has no {options.what}")
        sites = {module: [{"kind": "delta", "params": params}] for module, params in plan.items()}
        return Plan(SiteConfig(peft_type="MMALIGN_DELTA", plan=sites))


BITFIT = BitFit()
