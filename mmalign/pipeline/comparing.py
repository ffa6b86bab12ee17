"""Answers of the start policy, two to a prompt, and which of them the judge prefers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmalign.errors import UserError
from mmalign.feedback.pairwise import OrderSwapped
from mmalign.pipeline.judging import build_judge
from mmalign.pipeline.stages.feedback import PARTS, sample_answers
from mmalign.rng import generator

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["compared_rows"]


def compared_rows(ctx: RunContext, part: str) -> list[Row]:
    """Rows with ``chosen`` and ``rejected``: two fresh answers to each prompt of ``part`` and the judge's choice.

    The choice is drawn from the judge's probability, asked in both orders; prompts, answers and choices depend on the
    seed alone, so a run that resumes compares the same.  Equal or empty texts are left out.

    Raises:
        UserError: when the judge cannot compare, or no two answers differ.
    """
    cfg = ctx.cfg.feedback
    judge: Any
    judge, _ = build_judge(ctx)
    if not hasattr(judge, "compare"):
        raise UserError(
            f"feedback.judge: {cfg.judge} verifies facts but cannot compare two answers; name a judge that compares, "
            "or set reward_model.ranking.pairs to feedback or data"
        )
    ask = OrderSwapped(judge)
    prompts = ctx.rows(PARTS[part], cfg.n_prompts if part == "train" else cfg.n_heldout)
    model = ctx.load_model(ctx.start_policy())
    answers = sample_answers(ctx, model, prompts, part, n=2)
    luck = torch.rand(len(prompts), generator=generator(ctx.cfg.seed, "compare", part)).tolist()
    rows = []
    for place, (prompt, chance) in enumerate(zip(prompts, luck, strict=True)):
        first, second = (answers[2 * place + side].completion for side in (0, 1))
        if isinstance(first, str) and (first == second or not first.strip() or not second.strip()):
            continue
        wins = chance < ask.prefer(prompt, first, second).probability
        good, bad = (first, second) if wins else (second, first)
        rows.append(replace(prompt, completion=None, steps=None, segments=(), chosen=good, rejected=bad))
    if not rows:
        raise UserError(f"feedback: no two of the start policy's answers to {len(prompts)} prompts differ")
    return rows
