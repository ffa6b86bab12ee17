"""Stage ``feedback``: sample answers from the start policy and have a judge label every segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.engine.atomic import write_json
from mmalign.errors import UserError
from mmalign.feedback.collect import collect
from mmalign.feedback.quality import label_counts
from mmalign.pipeline.judging import build_judge
from mmalign.pipeline.progress import step_progress
from mmalign.protocols import Samples
from mmalign.rng import derive_seed, generator

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["feedback_file", "run", "sample_answers"]

NAME = "feedback"
PARTS = {"train": "train", "heldout": "validation"}


def run(ctx: RunContext) -> None:
    """Write ``feedback/train.jsonl`` and ``feedback/heldout.jsonl``; one process does it all."""
    facts = _collect(ctx) if ctx.accelerator.is_main_process else {}
    ctx.mark_done(NAME, facts)


def _collect(ctx: RunContext) -> dict[str, Any]:
    cfg = ctx.cfg.feedback
    model = ctx.load_model(ctx.start_policy())
    judge, extractor = build_judge(ctx)
    counts: dict[str, Any] = {}
    for part, split in PARTS.items():
        n = cfg.n_prompts if part == "train" else cfg.n_heldout
        prompts = ctx.rows(split, n)
        answers = sample_answers(ctx, model, prompts, part)
        shuffle = (
            derive_seed(ctx.cfg.seed, "shuffle", part) if cfg.shuffle_labels and part == "train" else None
        )
        labelled = collect(
            answers,
            judge,
            extractor,
            path=ctx.run_dir / "feedback" / f"{part}.jsonl",
            cache_dir=ctx.run_dir / "feedback" / "cache",
            shuffle_labels_seed=shuffle,
            types=ctx.cfg.reward_model.types,
        )
        counts[part] = label_counts(labelled, ctx.cfg.reward_model.types)
    write_json(ctx.run_dir / "feedback" / "counts.json", counts)
    return {"judge": judge.name, "counts": counts}


def feedback_file(ctx: RunContext, part: str) -> Path:
    """Where the labelled answers of ``part`` lie (this run's, or those it reuses)."""
    return ctx.home(NAME) / "feedback" / f"{part}.jsonl"


def sample_answers(
    ctx: RunContext, model: Any, prompts: Sequence[Row], part: str, n: int | None = None
) -> list[Row]:
    """Draw ``n`` (``n_samples``) answers per prompt; the draw of a chunk depends on the seed and its place only."""
    cfg = ctx.cfg.feedback
    n = cfg.n_samples if n is None else n
    if not isinstance(ctx.adapter, Samples):
        raise UserError(
            f"stage feedback: modality {ctx.adapter.name!r} cannot sample; give labelled rows instead"
        )
    answers: list[Row] = []
    size = cfg.batch_size
    with step_progress(f"feedback {part}", len(prompts), enabled=ctx.accelerator.is_main_process) as on_step:
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            rollout = ctx.adapter.sample(
                model,
                chunk,
                n,
                generator(ctx.cfg.seed, NAME, part, start),
                temperature=cfg.temperature,
                max_steps=cfg.max_new_tokens,
            )
            for place, row in enumerate(rollout.rows):
                answers.append(replace(row, id=f"{row.id}#{place % n}"))
            on_step(min(start + size, len(prompts)), {})
    return answers
