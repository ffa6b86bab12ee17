"""Low-rank tuners: peft's LoRA, DoRA and rsLoRA by name, and starts computed from weights or data."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from mmalign.config.fields import Positive, PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe, required
from mmalign.tuners.moments import Moments, input_moments
from mmalign.tuners.tuner import SiteConfig

__all__ = [
    "CORDA",
    "DORA",
    "EVA",
    "LORA",
    "PISSA",
    "RSLORA",
    "Eva",
    "Lora",
    "LoraOptions",
    "Offset",
    "corda_factors",
]


class LoraOptions(Section):
    """LoRA's size."""

    r: PositiveCount = 8
    """Rank; of EVA the mean rank of a layer."""
    alpha: Positive = 8
    """Scale, divided by the rank (by its root for rslora)."""
    targets: tuple[str, ...] = ()
    """Endings of the names of the layers that are tuned, such as ``attn.qkv``; empty is every projection of a block."""


class EvaOptions(LoraOptions):
    """EVA's size and how far a layer's rank may go."""

    rho: Positive = 2.0
    """A layer gets at most ``rho * r`` directions."""
    batches: PositiveCount = 16
    """Minibatches whose activations are looked at."""


class OffsetOptions(Section):
    """Rank, and what CorDA looks at."""

    r: PositiveCount = 8
    """Rank."""
    batches: PositiveCount = 16
    """Minibatches whose activations are looked at (corda)."""


class CordaOptions(OffsetOptions):
    """CorDA's rank and what is kept."""

    keep_knowledge: bool = False
    """Train the directions that matter least to the probe's data, so as to keep what it knows."""


class Lora:
    """peft's LoRA on the projections of every block, with one of its variants.

    Reference: Hu et al. 2021, arXiv 2106.09685; Liu et al. 2024, arXiv 2402.09353 (DoRA); Kalajdzievski 2023,
    arXiv 2312.03732 (rsLoRA).
    """

    identity = True
    Options = LoraOptions

    def __init__(self, name: str, *, dora: bool = False, rank_stabilised: bool = False) -> None:
        self.name = name
        self._variant: dict[str, bool] = {"use_dora": dora, "use_rslora": rank_stabilised}

    def plan(self, anatomy: Anatomy, options: LoraOptions, probe: Probe | None) -> Plan:
        """A stock ``LoraConfig``."""
        names = [name for name, _ in _targeted(anatomy, options)]
        config = LoraConfig(r=options.r, lora_alpha=options.alpha, target_modules=names, **self._variant)  # type: ignore[arg-type]
        return Plan(config)


class Eva:
    """LoRA whose ``A`` starts in the directions in which a layer's inputs vary most, ranks shared out by how much.

    Ratios of explained variance of all layers' principal directions are ranked together and the best ``r`` per layer
    on average are kept; a layer without any is left alone.  The result is a plain LoRA.

    Reference: Paischer et al. 2024, arXiv 2410.07170.
    Differs from paper: the principal directions come from the exact covariance of the minibatches, not incrementally.
    """

    name = "eva"
    identity = True
    Options = EvaOptions

    def plan(self, anatomy: Anatomy, options: EvaOptions, probe: Probe | None) -> Plan:
        """A stock ``LoraConfig`` with a rank per layer, and the directions to start from."""
        layers = dict(_targeted(anatomy, options))
        moments = input_moments(anatomy.model, layers, required(probe, self.name), options.batches)
        most, ratios, axes = round(options.r * options.rho), {}, {}
        for name, found in moments.items():
            values, vectors = torch.linalg.eigh(found.covariance())
            share = values.flip(0).clamp(min=0)
            ratios[name] = (share / share.sum())[:most]
            axes[name] = vectors.flip(1).T[:most].float()
        flat = torch.cat([ratios[name] for name in layers])
        owner = torch.cat([torch.full((len(ratios[name]),), k) for k, name in enumerate(layers)])
        best = flat.argsort(descending=True, stable=True)[: options.r * len(layers)]
        ranks = dict(zip(layers, torch.bincount(owner[best], minlength=len(layers)).tolist(), strict=True))
        chosen = {name: rank for name, rank in ranks.items() if rank}
        config = LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            target_modules=list(chosen),
            rank_pattern=chosen,
            alpha_pattern={name: options.alpha * rank / options.r for name, rank in chosen.items()},
        )

        def settle(model: PeftModel) -> None:
            inner: Any = model.get_base_model()
            for name, rank in chosen.items():
                layer = inner.get_submodule(name)
                layer.lora_A["default"].weight.data.copy_(axes[name][:rank])

        return Plan(config, settle=settle)


class Offset:
    """A low-rank pair that starts inside the weight and is taken off again: PiSSA and CorDA without a changed base.

    Equation: ``W + B A - B0 A0``, ``(B0, A0)`` from an SVD of ``W`` (*pissa*: the top directions; *corda*: of
    ``W C``, ``C`` the inputs' second moment, brought back by its inverse).  Gradients are those of the original, the
    model below stays the reference, and the sum is a LoRA of rank ``2 r``.

    Reference: Meng et al. 2024, arXiv 2404.02948 (PiSSA); Yang et al. 2024, arXiv 2406.05223 (CorDA).
    Differs from peft: there the base's weights are changed, so that switching the adapter off is no reference, and
    ``corda`` needs the undeclared package attrs.
    """

    identity = True

    def __init__(self, name: str, *, looks_at_data: bool) -> None:
        self.name = name
        self.Options = CordaOptions if looks_at_data else OffsetOptions
        self._looks = looks_at_data

    def plan(self, anatomy: Anatomy, options: OffsetOptions, probe: Probe | None) -> Plan:
        """A delta part per projection, with both pairs."""
        layers = dict(projections(anatomy))
        moments: dict[str, Moments] = {}
        if self._looks:
            moments = input_moments(anatomy.model, layers, required(probe, self.name), options.batches)
        sites, state = {}, {}
        for name, layer in layers.items():
            last = isinstance(options, CordaOptions) and options.keep_knowledge
            second = moments[name].second() if name in moments else None
            a, b = corda_factors(layer.weight, second, options.r, last=last)
            block = {"start": 0, "stop": layer.out_features, "r": a.shape[0], "offset": True}
            sites[name] = [{"kind": "delta", "params": {"weight": {"blocks": [block]}}}]
            state[name] = {
                f"0.low.weight.0.{key}": value for key, value in (("A", a), ("B", b), ("A0", a), ("B0", b))
            }
        return Plan(SiteConfig(peft_type="MMALIGN_DELTA", plan=sites), state)


def projections(anatomy: Anatomy) -> list[tuple[str, nn.Linear]]:
    """Linear layers inside blocks that are called as such (not those within ``nn.MultiheadAttention``)."""
    fused = nn.modules.linear.NonDynamicallyQuantizableLinear
    return [(n, m) for b in anatomy.blocks for n, m in anatomy.linears(b.name) if not isinstance(m, fused)]


def _targeted(anatomy: Anatomy, options: LoraOptions) -> list[tuple[str, nn.Linear]]:
    """The projections whose names end as asked.

    Raises:
        UserError: for an ending that no projection has.
    """
    layers = projections(anatomy)
    for ending in options.targets:
        if not any(name.endswith(f".{ending}") for name, _ in layers):
            known = sorted({".".join(name.split(".")[-2:]) for name, _ in layers})
            raise UserError(
                f"lora: no projection's name ends in {ending!r}; known endings: {', '.join(known)}"
            )
    return [
        (name, layer)
        for name, layer in layers
        if not options.targets or any(name.endswith(f".{ending}") for ending in options.targets)
    ]


def corda_factors(
    weight: Tensor, second: Tensor | None, r: int, *, last: bool = False
) -> tuple[Tensor, Tensor]:
    """``(A, B)`` of the top (or ``last``) ``r`` directions of ``W C``; of ``W`` itself where ``second`` is ``None``.

    ``C`` is made invertible by a damp of 1 % of its mean diagonal, doubled until ``C C^-1`` is the unit matrix to 5 %.

    Raises:
        UserError: for a rank above that of the weight.
    """
    if r > min(weight.shape):
        raise UserError(f"a rank of {r} is above that of a weight of shape {tuple(weight.shape)}")
    w = weight.detach().double()
    c = torch.eye(w.shape[1], dtype=w.dtype) if second is None else _damped(second.double())
    u, s, v = torch.linalg.svd(w @ c, full_matrices=False)
    pick = slice(len(s) - r, None) if last else slice(0, r)
    back = torch.linalg.solve(c.T, v[pick].T).T
    root = s[pick].sqrt()
    return (root[:, None] * back).to(weight.dtype), (u[:, pick] * root).to(weight.dtype)


def _damped(second: Tensor) -> Tensor:
    damp, unit = 0.01, torch.eye(len(second), dtype=second.dtype)
    while True:
        c = second + damp * second.diagonal().mean() * unit
        if float((c @ torch.linalg.inv(c) - unit).square().mean().sqrt()) < 0.05:
            return c
        damp *= 2


LORA = Lora("lora")
DORA = Lora("dora", dora=True)
RSLORA = Lora("rslora", rank_stabilised=True)
EVA = Eva()
PISSA = Offset("pissa", looks_at_data=False)
CORDA = Offset("corda", looks_at_data=True)
