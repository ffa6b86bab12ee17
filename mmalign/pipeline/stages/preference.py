"""Stages ``dpo`` and ``kto``: the policy learns from compared or judged answers, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch

from mmalign.data.lazy import Joined, Mapped
from mmalign.data.pairs import (
    Pair,
    labelled_answers,
    lazy_pairs,
    pairs_from_feedback,
    sides_of,
    with_random_labels,
)
from mmalign.engine.atomic import write_json
from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import make_optimizer
from mmalign.engine.pairs import ScoresBatches, kto_objective, pair_objective, score_pairs
from mmalign.engine.reference import Reference, cached_reference
from mmalign.errors import UserError, nearest
from mmalign.objectives.masked import masked_sum
from mmalign.objectives.preference import PAIR_LOSSES, PairSettings, needs_reference
from mmalign.pipeline.stages.reward_model import labelled_rows
from mmalign.pipeline.training import guard_media, offline_trainer, run_training
from mmalign.pipeline.tuning import tuned
from mmalign.rng import generator
from mmalign.stats.intervals import wilson

if TYPE_CHECKING:
    from torch import nn

    from mmalign.config.preference import DPOConfig, PairsConfig
    from mmalign.engine.step import Loss
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["pair_settings", "preference_pairs", "run_dpo", "run_kto"]


def run_dpo(ctx: RunContext) -> None:
    """Any pair objective; writes ``stages/dpo/final`` and the held-out margins."""
    cfg = ctx.cfg.dpo
    settings = pair_settings(cfg)
    pairs = preference_pairs(ctx, cfg, "train")

    def objective(model: nn.Module, reference: ScoresBatches | None) -> Callable[..., Loss]:
        return pair_objective(ctx.adapter, model, reference, settings)

    _train(ctx, "dpo", cfg, pairs, sides_of(pairs), objective, with_reference=needs_reference(settings))


def run_kto(ctx: RunContext) -> None:
    """KTO on single answers; pairs count as a good and a bad answer.  Writes ``stages/kto/final``."""
    cfg = ctx.cfg.kto
    items = _judged(ctx, cfg)

    def objective(model: nn.Module, reference: ScoresBatches | None) -> Callable[..., Loss]:
        assert reference is not None
        return kto_objective(
            ctx.adapter,
            model,
            reference,
            beta=cfg.beta,
            desirable_weight=cfg.desirable_weight,
            undesirable_weight=cfg.undesirable_weight,
            loss_type=cfg.loss_type,
        )

    _train(ctx, "kto", cfg, items, Mapped(items, itemgetter(0)), objective, with_reference=True)


def pair_settings(cfg: DPOConfig) -> PairSettings:
    """The section as settings of the objective.

    Raises:
        UserError: for an unknown loss, or coefficients that do not go together.
    """
    for name in cfg.loss_type:
        if name not in PAIR_LOSSES:
            known = ", ".join(PAIR_LOSSES)
            raise UserError(f"dpo.loss_type: no loss {name!r}{nearest(name, PAIR_LOSSES)}; known: {known}")
    _refuse_unread(cfg)
    fields = {name: getattr(cfg, name) for name in PairSettings.__dataclass_fields__}
    try:
        return PairSettings(**fields)
    except ValueError as error:
        raise UserError(f"dpo: {error}") from None


def _refuse_unread(cfg: DPOConfig) -> None:
    """Coefficients that no named loss reads would change nothing, and nobody would notice."""
    named = ", ".join(cfg.loss_type)
    for key, given, flag in (
        ("label_smoothing", cfg.label_smoothing > 0, "smoothed"),
        ("f_divergence_type", cfg.f_divergence_type != "reverse_kl", "divergence"),
    ):
        if given and not any(getattr(PAIR_LOSSES[name], flag) for name in cfg.loss_type):
            readers = ", ".join(name for name, loss in PAIR_LOSSES.items() if getattr(loss, flag))
            raise UserError(
                f"dpo.{key}: {named} does not read it, got {getattr(cfg, key)!r}; leave it out or use {readers}"
            )


def preference_pairs(ctx: RunContext, cfg: PairsConfig, part: str) -> Sequence[Pair]:
    """The pairs of a part (``train`` or ``heldout``), from rows or from labelled answers."""
    if cfg.pairs == "feedback":
        pairs: Sequence[Pair] = pairs_from_feedback(labelled_rows(ctx, part))
    else:
        pairs = lazy_pairs(_rows(ctx, cfg, part))
    pairs = pairs[: cfg.n_pairs if part == "train" else cfg.n_heldout]
    return with_random_labels(pairs, ctx.cfg.seed) if cfg.shuffle_labels and part == "train" else pairs


def _rows(ctx: RunContext, cfg: PairsConfig, part: str) -> Sequence[Row]:
    if part == "train":
        return ctx.training_rows("preference", cfg.n_pairs)
    return ctx.rows("validation", cfg.n_heldout, kind="preference")


def _judged(ctx: RunContext, cfg: PairsConfig) -> Sequence[tuple[Row, bool]]:
    if cfg.pairs == "feedback":
        pairs = preference_pairs(ctx, cfg, "train")
        return [item for pair in pairs for item in ((pair.chosen, True), (pair.rejected, False))]
    if cfg.shuffle_labels:
        raise UserError(
            "kto.shuffle_labels: turns pairs round, and these rows hold single answers; use pairs: feedback"
        )
    return labelled_answers(_rows(ctx, cfg, "train"))


def _train(
    ctx: RunContext,
    name: str,
    cfg: PairsConfig,
    items: Sequence[Any],
    rows: Sequence[Row],
    objective: Callable[[nn.Module, ScoresBatches | None], Callable[..., Loss]],
    *,
    with_reference: bool,
) -> None:
    model = tuned(ctx, ctx.load_model(ctx.start_policy()))
    freeze(model, ctx.cfg.model.freeze)
    guard_media(ctx, model, rows)
    heldout = _heldout(ctx, cfg)
    needed = Joined(rows, sides_of(heldout))
    reference = _reference(ctx, name, cfg, model, needed, len(items)) if with_reference else None
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    state = LoopState({"policy": model}, optimizer)
    trainer = offline_trainer(ctx, name, cfg, objective(model, reference), items, state)
    run_training(ctx, name, trainer.step, state, cfg, title=name.upper(), show=("loss", "rewards/margins"))
    if ctx.accelerator.is_main_process:
        quality = _margins(ctx, name, cfg, model, reference, heldout)
        write_json(ctx.stage_dir(name) / "quality.json", quality)
        ctx.adapter.save(model, ctx.stage_dir(name) / "final")
    trainable, total = count_parameters(model)
    facts = {"trainable_parameters": trainable, "parameters": total, "items": len(items)}
    ctx.mark_done(name, {**facts, "reference": reference.how if reference is not None else "none"})


def _heldout(ctx: RunContext, cfg: PairsConfig) -> Sequence[Pair]:
    """Validation pairs; a file of one's own without validation rows has none."""
    data = ctx.cfg.data
    if cfg.pairs == "data" and data.train is not None and data.validation is None:
        return []
    return preference_pairs(ctx, cfg, "heldout")


def _reference(
    ctx: RunContext, name: str, cfg: PairsConfig, model: nn.Module, rows: Sequence[Row], n_items: int
) -> Any:
    """The policy as it is now, however it is kept."""
    how = (
        "cache"
        if cfg.reference == "auto" and _worth_caching(ctx, cfg, model, rows, n_items)
        else cfg.reference
    )
    if how != "cache":
        return Reference(ctx.adapter, model, how)
    cache = cached_reference(ctx.stage_dir(name) / "cache", ctx.adapter, model)
    cache.precompute(rows, cfg.per_device_train_batch_size, write=ctx.accelerator.is_main_process)
    return cache


@torch.no_grad()
def _worth_caching(
    ctx: RunContext, cfg: PairsConfig, model: nn.Module, rows: Sequence[Row], n_items: int
) -> bool:
    """Whether the loss can read a cache, training reads every row at least once, and scores are not drawn at random."""
    if getattr(cfg, "loss_type", None) == "kto":
        return False
    rng = generator(ctx.cfg.seed, "reference", "probe")
    read = cfg.max_steps * cfg.per_device_train_batch_size * ctx.accelerator.num_processes
    return read >= n_items and not ctx.adapter.logp(model, ctx.adapter.collate(rows[:1]), rng).surrogate


@torch.no_grad()
def _margins(
    ctx: RunContext, name: str, cfg: PairsConfig, model: nn.Module, reference: Any, pairs: Sequence[Pair]
) -> dict[str, Any]:
    """Share of held-out pairs whose margin (in reward units) is above 0, with a Wilson interval, and its mean."""
    margins: list[float] = []
    for at in range(0, len(pairs), cfg.per_device_train_batch_size):
        chunk = pairs[at : at + cfg.per_device_train_batch_size]
        both = score_pairs(ctx.adapter, model, reference, chunk, generator(ctx.cfg.seed, name, "heldout", at))
        scored = [masked_sum(logp if ref is None else logp - ref, mask, 1) for logp, ref, mask in both]
        margins += (cfg.beta * (scored[0] - scored[1])).tolist()
    if not margins:
        return {"n": 0}
    right = sum(m > 0 for m in margins)
    interval = wilson(right, len(margins))
    mean = sum(margins) / len(margins)
    return {
        "n": len(margins),
        "accuracy": right / len(margins),
        "ci": [interval.ci_low, interval.ci_high],
        "margin": mean,
    }
