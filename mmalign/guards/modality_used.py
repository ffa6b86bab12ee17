"""The modality-used guard: take the evidence away and the log-probabilities must move.

The commonest silent failure of multimodal training is that the image is dropped on the way to the
model.  At the start of every run the guard scores a few answers three times: as they are, with
blanked media, and with the media of another row.  A model whose log-probabilities do not move never
looked, and the run stops with an explanation.  Where an adapter offers ``Borrows`` the evidence is what that adapter
says instead of the media: the prompt of a picture that is drawn, the observation of an action.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.data.content import media_digest
from mmalign.errors import UserError
from mmalign.protocols import Borrows, Conditioned, Likelihood, Samples
from mmalign.rng import generator

if TYPE_CHECKING:
    from mmalign.types import Row

__all__ = [
    "GuardReport",
    "answered",
    "check_modality_used",
    "measure_modality_use",
    "shuffle_media",
    "swap_evidence",
]


@dataclass(frozen=True)
class GuardReport:
    """How far the log-probabilities moved, as mean absolute nats per step over the rows.

    ``share_blank`` and ``share_shuffled`` are the shares of rows whose largest move exceeds
    ``tolerance``; ``n`` is the number of rows with media (0: the guard has nothing to say), ``n_shuffled``
    of those that could be given another row's media.
    """

    n: int
    n_shuffled: int
    moved_blank: float
    moved_shuffled: float
    share_blank: float
    share_shuffled: float
    tolerance: float

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for the run folder."""
        return asdict(self)


def shuffle_media(rows: Sequence[Row]) -> list[Row]:
    """Give each row the media of the next row (cyclically) that has as many, but other, media.

    A row stays as it is when no other row has other media of the same count.
    """
    keys = [tuple(media_digest(item) for item in row.media) for row in rows]
    shuffled = list(rows)
    for here, key in enumerate(keys):
        later = [(here + k) % len(rows) for k in range(1, len(rows))]
        other = next((k for k in later if len(keys[k]) == len(key) and keys[k] != key), here)
        shuffled[here] = replace(rows[here], media=rows[other].media)
    return shuffled


def swap_evidence(adapter: Likelihood, rows: Sequence[Row]) -> list[Row]:
    """Give each row the evidence of another: what the adapter lends, else the media (:func:`shuffle_media`).

    A row whose evidence is that of every other row stays as it is.
    """
    if not isinstance(adapter, Borrows):
        return shuffle_media(rows)
    keys = [_evidence_key(adapter, row) for row in rows]
    swapped = list(rows)
    for here, key in enumerate(keys):
        later = [(here + k) % len(rows) for k in range(1, len(rows))]
        other = next((k for k in later if keys[k] != key), None)
        swapped[here] = rows[here] if other is None else adapter.borrow(rows[here], rows[other])
    return swapped


def _evidence_key(adapter: Likelihood, row: Row) -> str:
    """Tells rows of other prompts and media apart."""
    media = [media_digest(item) for item in row.media]
    return json.dumps([row.prompt, media], sort_keys=True, default=str)


@torch.no_grad()
def measure_modality_use(
    adapter: Likelihood, model: nn.Module, rows: Sequence[Row], *, seed: int = 0, tolerance: float = 1e-4
) -> GuardReport:
    """Score ``rows`` as they are, blanked and shuffled, and report how far the scores move.

    Rows without an answer get one sampled from the model (needs ``Samples``).

    Raises:
        UserError: when the modality cannot blank its media.
    """
    rows = list(rows) if isinstance(adapter, Borrows) else [row for row in rows if row.media]
    if not rows:
        return GuardReport(0, 0, 0.0, 0.0, 0.0, 0.0, tolerance)
    if not isinstance(adapter, Conditioned):
        raise UserError(
            f"modality {adapter.name!r} has no blank(row), so nobody can tell whether its media are used; "
            "add it (see docs/plugins) or set guard.enabled: false"
        )
    training = model.training
    model.eval()
    samples = answered(adapter, model, rows, seed)
    base, mask = _score(adapter, model, samples, seed)
    blank, _ = _score(adapter, model, [adapter.blank(row) for row in samples], seed)
    swapped = swap_evidence(adapter, samples)
    shuffled, _ = _score(adapter, model, swapped, seed)
    model.train(training)
    other = torch.tensor(
        [new is not old and _differs(new, old) for new, old in zip(swapped, samples, strict=True)]
    )
    moved_blank, share_blank = _moves(blank, base, mask, tolerance)
    moved_shuffled, share_shuffled = _moves(shuffled[other], base[other], mask[other], tolerance)
    return GuardReport(
        len(samples), int(other.sum()), moved_blank, moved_shuffled, share_blank, share_shuffled, tolerance
    )


def _differs(new: Row, old: Row) -> bool:
    return new.media is not old.media or new.prompt != old.prompt or new.steps is not old.steps


def check_modality_used(
    adapter: Likelihood,
    model: nn.Module,
    rows: Sequence[Row],
    *,
    seed: int = 0,
    allow_unused: bool = False,
) -> GuardReport:
    """Run :func:`measure_modality_use` and stop a run whose media change nothing.

    Raises:
        UserError: when blanking or shuffling moves the scores of less than half of the rows.
    """
    report = measure_modality_use(adapter, model, rows, seed=seed)
    ignored = report.n and (report.share_blank < 0.5 or (report.n_shuffled and report.share_shuffled < 0.5))
    what, where = "media", "the processor, the image placeholders and the vision tower's weights"
    if isinstance(adapter, Borrows):
        what, where = (
            "conditions",
            "that the prompt or observation reaches the model and its encoder's weights",
        )
    if ignored and not allow_unused:
        raise UserError(
            f"the model ignores its {what}: replacing them by blank ones moved the log-probabilities of "
            f"{report.share_blank:.0%} of {report.n} rows, by those of another row {report.share_shuffled:.0%} "
            f"(expected nearly all); check {where}, "
            "or pass --guard.allow_unused_media true to go on all the same"
        )
    return report


def answered(adapter: Likelihood, model: nn.Module, rows: Sequence[Row], seed: int) -> list[Row]:
    """Rows with an answer: their own, or one sampled from the model at temperature 1.

    Not a greedy one: at the mean of a Gaussian step the log-density does not move with it to first order.

    Raises:
        UserError: when rows lack answers and the modality cannot sample.
    """
    have = [row for row in rows if row.completion is not None or row.steps is not None]
    lack = [row for row in rows if row.completion is None and row.steps is None]
    if lack and isinstance(adapter, Samples):
        rng = generator(seed, "guard", "sample")
        have += adapter.sample(model, lack, 1, rng, temperature=1.0, max_steps=32).rows
    if not have:
        raise UserError("the modality-used guard needs rows with answers, or a modality that can sample")
    return have


def _moves(other: Tensor, base: Tensor, mask: Tensor, tolerance: float) -> tuple[float, float]:
    """Mean absolute move per step and the share of rows whose largest move exceeds the tolerance."""
    if not len(base):
        return 0.0, 0.0
    move = (other - base).abs() * mask
    mean = float(move.sum() / mask.sum().clamp(min=1))
    return mean, float((move.amax(-1) > tolerance).float().mean())


def _score(adapter: Likelihood, model: nn.Module, rows: Sequence[Row], seed: int) -> tuple[Tensor, Tensor]:
    batch = adapter.collate(rows)
    scored = adapter.logp(model, batch, generator(seed, "guard", "score"))
    values = torch.where(scored.mask, scored.values, torch.zeros_like(scored.values))
    return values * scored.nats, scored.mask
