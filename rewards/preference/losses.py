"""From ranked candidates to a loss: which rows are compared, with what weight, under which objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.objectives.constrained import cost_model_loss
from mmalign.objectives.reward_model import bradley_terry, comparisons, pairwise_preference, plackett_luce
from mmalign.rewards.preference.data import Ranked, prompt_id
from mmalign.rewards.preference.options import Options
from mmalign.rewards.preference.reading import Reading
from mmalign.rng import derive_seed

__all__ = ["Compared", "best_nll", "candidates", "compared", "learns_from", "pair_loss", "score_loss"]


@dataclass(frozen=True, slots=True)
class Compared:
    """The pairs of several prompts, as places in the flat list of all their candidates; tensors are ``[P]``.

    ``unsafe`` ``[N]`` is of the candidates themselves, false where it is not known.
    """

    better: Tensor
    worse: Tensor
    margin: Tensor
    weight: Tensor
    worth: Tensor
    place: Tensor
    mask: Tensor
    unsafe: Tensor


def compared(groups: Sequence[Ranked], device: torch.device | str = "cpu") -> Compared:
    """Every pair of candidates of one prompt that differ in worth.

    ``worth``, ``place`` (in the flat list) and ``mask`` are ``[B, K]``, padded to the longest ranking.
    """
    width = max(len(group.rows) for group in groups)
    worth = torch.zeros(len(groups), width)
    place = torch.zeros(len(groups), width, dtype=torch.long)
    mask = torch.zeros(len(groups), width, dtype=torch.bool)
    start = 0
    for b, group in enumerate(groups):
        n = len(group.rows)
        worth[b, :n] = torch.tensor(group.worth)
        place[b, :n] = torch.arange(start, start + n)
        mask[b, :n] = True
        start += n
    row, first, second, weight = comparisons(worth, mask)
    margin = torch.tensor([group.margin for group in groups])[row]
    flags = [flag for group in groups for flag in group.unsafe or (False,) * len(group.rows)]
    unsafe = torch.tensor(flags, dtype=torch.bool)
    found = Compared(place[row, first], place[row, second], margin, weight, worth, place, mask, unsafe)
    return Compared(*(getattr(found, name).to(device) for name in Compared.__dataclass_fields__))


def score_loss(scores: Tensor, pairs: Compared, options: Options) -> tuple[Tensor, Tensor]:
    """The configured loss over flat ``scores`` ``[N]`` and the pairs' gaps ``[P]``; a cost is minus the score."""
    gaps = scores[pairs.better] - scores[pairs.worse]
    if options.loss == "plackett_luce":
        return plackett_luce(scores[pairs.place], pairs.worth, pairs.mask), gaps
    chosen, rejected = scores[pairs.better], scores[pairs.worse]
    if options.loss == "cost":
        worse, better = pairs.unsafe[pairs.worse], pairs.unsafe[pairs.better]
        return cost_model_loss(-rejected, -chosen, worse, better, options.sign_coef, pairs.weight)[0], gaps
    return bradley_terry(chosen, rejected, pairs.margin, options.centering, pairs.weight), gaps


def pair_loss(logits: Tensor, pairs: Compared) -> Tensor:
    """Cross-entropy of logits ``[P]`` that the better answer is the better one."""
    return pairwise_preference(logits, weight=pairs.weight)


def candidates(readings: Sequence[Reading], groups: Sequence[Ranked], mine: Sequence[int]) -> list[Reading]:
    """The readings of some groups' candidates, out of those of all groups."""
    if not readings:
        return []
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group.rows))
    return [readings[k] for i in mine for k in range(starts[i], starts[i + 1])]


def learns_from(group: Ranked, member: str, options: Options) -> bool:
    """Whether a member sees a prompt: all do, or about 63 % of the prompts under ``bootstrap``."""
    if not options.bootstrap:
        return True
    return derive_seed(0, "bootstrap", member, prompt_id(group.rows[0])) % 1_000_000 < 632_121


def best_nll(readings: Sequence[Reading], pairs: Compared) -> Tensor:
    """Nats per step of every prompt's best answer under the trunk."""
    best = pairs.worth.masked_fill(~pairs.mask, -torch.inf).argmax(dim=1, keepdim=True)
    return -torch.cat([readings[int(k)].logp for k in pairs.place.gather(1, best).flatten()]).mean()
