"""Task vectors and how they are combined: arithmetic, TIES, DARE, breadcrumbs; and the arc between two models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from peft.utils import merge_utils
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed
from mmalign.tuners.merging.states import State, check_alike, combined

__all__ = ["METHODS", "breadcrumbs", "merge_deltas", "slerp", "task_vector"]

_Combine = Callable[[list[Tensor], Tensor, float], Tensor]
METHODS: Mapping[str, _Combine] = {
    "linear": lambda deltas, weights, density: merge_utils.task_arithmetic(deltas, weights),
    "magnitude_prune": merge_utils.magnitude_prune,
    "ties": merge_utils.ties,
    "dare_linear": merge_utils.dare_linear,
    "dare_ties": merge_utils.dare_ties,
}
"""peft's own functions of tensors, by peft's own names (``combination_type`` of ``add_weighted_adapter``)."""


def task_vector(tuned: State, base: State) -> dict[str, Tensor]:
    """``tuned - base``, in float32 or float64; tensors of whole numbers are left out.

    Reference: Ilharco et al. 2023, arXiv 2212.04089.
    """
    check_alike([base, tuned])
    return {
        name: (tuned[name] if old.element_size() == 8 else tuned[name].float())
        - old.to(torch.promote_types(old.dtype, torch.float32))
        for name, old in base.items()
        if old.is_floating_point()
    }


def merge_deltas(
    base: State,
    tuned: Sequence[State],
    method: str = "linear",
    *,
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> dict[str, Tensor]:
    """``base`` plus the task vectors of ``tuned``, combined as ``method`` says.

    Args:
        base: what all were trained from.
        tuned: at least one model.
        method: ``linear`` (task arithmetic), ``ties``, ``dare_linear``, ``dare_ties``, ``magnitude_prune``.
        weights: one per model; 1 each where not given; negative ones forget.
        density: share of a task vector that is kept, for the methods that prune; below 1.
        seed: of DARE's random drops, a stream per tensor.

    Reference: Ilharco et al. 2023, arXiv 2212.04089; Yadav et al. 2023, arXiv 2306.01708 (TIES);
    Yu et al. 2024, arXiv 2311.03099 (DARE).  TIES as peft has it: signs are elected before the weights apply.

    Raises:
        UserError: for an unknown method, a wrong number of weights, or models of another architecture.
    """
    if method not in METHODS:
        raise UserError(f"merge: no method {method!r}{nearest(method, METHODS)}; known: {', '.join(METHODS)}")
    scale = torch.tensor([1.0] * len(tuned) if weights is None else list(weights))
    if len(scale) != len(tuned):
        raise UserError(f"merge: {len(scale)} weights for {len(tuned)} models")
    if not 0.0 < density < 1.0 and method != "linear":
        raise UserError(f"merge: density is above 0 and below 1 for {method}, not {density}")

    def combine(name: str, values: list[Tensor]) -> Tensor:
        deltas = [value - values[0] for value in values[1:]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "merge", name))
            return values[0] + METHODS[method](deltas, scale.to(values[0].dtype), density)

    return combined([base, *tuned], combine)


def breadcrumbs(
    base: State, tuned: Sequence[State], *, keep: float = 0.2, drop_top: float = 0.1, scale: float = 0.4
) -> dict[str, Tensor]:
    """Sum of task vectors without their largest and their smallest entries, row by row.

    Along the last dimension the top ``drop_top`` by absolute value go, then the ``keep`` largest of the row stay, the
    rest goes.  Numbers without a dimension stay whole.

    Equation: ``theta_0 + scale sum_t mask(tau_t)``.

    Reference: Davari and Belilovsky 2024, arXiv 2312.06795, algorithm 1.

    Args:
        base: what all were trained from.
        tuned: at least one model.
        keep: share of each row that is kept (of the whole row, after the top has gone).
        drop_top: share of each row whose largest entries are dropped.
        scale: of the sum.

    Raises:
        UserError: where the two shares leave nothing, or more than there is.
    """
    if not 0.0 <= drop_top < 1.0 or not 0.0 < keep <= 1.0 - drop_top:
        raise UserError(f"merge: keep={keep} and drop_top={drop_top} are no shares of one row")

    def combine(name: str, values: list[Tensor]) -> Tensor:
        kept = [_crumbs(value - values[0], keep, drop_top) for value in values[1:]]
        return values[0] + scale * torch.stack(kept).sum(0)

    return combined([base, *tuned], combine)


def _crumbs(delta: Tensor, keep: float, drop_top: float) -> Tensor:
    if delta.ndim == 0:
        return delta
    wide = delta.shape[-1]
    top = round(drop_top * wide)
    order = delta.abs().argsort(dim=-1, descending=True, stable=True)
    chosen = order[..., top : top + max(1, round(keep * wide))]
    return torch.zeros_like(delta).scatter(-1, chosen, delta.gather(-1, chosen))


def slerp(
    first: State, second: State, t: float | Callable[[str], float] = 0.5, *, colinear: float = 0.9995
) -> dict[str, Tensor]:
    """The point at share ``t`` of the arc from one model to another, tensor by tensor.

    Equation: ``sin((1 - t) a) / sin a * W0 + sin(t a) / sin a * W1``, ``a`` the angle of the flattened tensors; where
    their cosine is beyond ``colinear`` (or one is 0), the straight line.

    Reference: Shoemake 1985; as used for language models by Lu et al. 2024, arXiv 2409.03444.

    Args:
        first: at ``t = 0``, bit for bit.
        second: at ``t = 1``, bit for bit.
        t: one share, or a share per tensor's name.
        colinear: cosine from which the arc is a line.
    """

    def combine(name: str, values: list[Tensor]) -> Tensor:
        share = t(name) if callable(t) else t
        if share in (0.0, 1.0):
            return values[int(share)]
        start, end = values[0].double(), values[1].double()
        length = start.norm() * end.norm()
        cosine = float((start * end).sum() / length) if float(length) > 0 else 1.0
        if abs(cosine) > colinear:
            return (1 - share) * values[0] + share * values[1]
        angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
        mixed = torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end
        return (mixed / torch.sin(angle)).to(values[0].dtype)

    return combined([first, second], combine)
