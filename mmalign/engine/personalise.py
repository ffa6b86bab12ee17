"""The loss of personalisation: likelihood of a few answers, of the class's own, and the meaning of the new word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from mmalign.engine.step import Loss
from mmalign.objectives.semantic import semantic_preservation_loss
from mmalign.objectives.sft import nll_loss
from mmalign.protocols import Likelihood, Personalises

if TYPE_CHECKING:
    from torch import nn

    from mmalign.config.personalise import PersonaliseConfig
    from mmalign.types import Row

__all__ = ["personalise_objective"]


def personalise_objective(
    adapter: Likelihood, model: nn.Module, cfg: PersonaliseConfig, prior: Sequence[Row]
) -> Callable[[Sequence[Row], torch.Generator], Loss]:
    """``L = NLL(rows) + prior_weight NLL(prior rows) + semantic_weight SPL``; each term stands whatever the others do.

    The prior rows of a step are drawn from its random stream, as many as there are rows.

    *Reference:* Huang et al., ClassDiffusion (2024), arXiv:2405.17532. *Differs from its code:* prior preservation and
    the semantic loss add up (there the second is silently dropped where the first is on).

    Args:
        adapter: a modality with ``Personalises``.
        model: with the word learnt (:meth:`~mmalign.protocols.Personalises.learn_word`).
        cfg: the section.
        prior: answers of the class, with its prompt.
    """
    assert isinstance(adapter, Personalises)

    def loss_fn(rows: Sequence[Row], rng: torch.Generator) -> Loss:
        scored = adapter.logp(model, adapter.collate(rows), rng)
        total = nll_loss(scored.values, scored.mask)
        metrics = {"nll": total.detach()}
        if prior and cfg.prior_weight:
            places = torch.randint(len(prior), (len(rows),), generator=rng).tolist()
            kept = adapter.logp(model, adapter.collate([prior[k] for k in places]), rng)
            own = nll_loss(kept.values, kept.mask)
            total, metrics["prior_nll"] = total + cfg.prior_weight * own, own.detach()
        if cfg.semantic_weight:
            states = adapter.prompt_states(model, [cfg.filled(cfg.prompt), cfg.filled(cfg.class_prompt)])
            semantic, found = semantic_preservation_loss(states[:1], states[1:])
            total = total + cfg.semantic_weight * semantic
            metrics |= {"semantic_loss": semantic.detach(), **found}
        return Loss(total, float(scored.mask.sum()), metrics)

    return loss_fn
