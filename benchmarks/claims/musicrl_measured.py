"""What the claim about MusicRL measures beside the task: rewards, truth and taste, and quality on more captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.claims.definition import Job
from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout

__all__ = ["FILE", "in_turn", "measure", "quality"]

FILE = "measured.json"
PROMPTS, EACH = 32, 4
MORE = 4
"""How many times the task's captions: a distance between two sets of sounds needs more of them than shares do."""


def measure(stage: str | None = None) -> Job:
    """A job that draws 4 pieces to each of 32 validation captions, as in training, and writes ``measured.json``.

    ``truth`` (exact adherence), ``adherence`` and ``quality`` (the parts of R before weighting), ``taste`` (the mean
    user's, in standard deviations of real pieces) and ``kl`` (nats per piece from the start, over every codebook).

    Args:
        stage: whose policy; ``None`` for the start.
    """

    def job(ctx: RunContext) -> None:
        from mmalign.data.jsonl import write_json
        from mmalign.rng import generator
        from mmalign.worlds.tunes.users import mean_taste

        final = _final(ctx, stage)
        adapter: Any = ctx.adapter
        adapter.configure({k: v for k, v in ctx.cfg.model.options.items() if k != "train_codebooks"})
        model, rows = (
            ctx.load_model(str(final or ctx.start_policy())),
            ctx.rows("validation", PROMPTS, "prompt"),
        )
        drawn: Rollout = adapter.sample(
            model,
            rows,
            EACH,
            generator(ctx.cfg.seed, "claims", "measured"),
            temperature=ctx.cfg.grpo.temperature,
            max_steps=ctx.cfg.evaluate.max_new_tokens,
        )
        names = {"truth": "tunes-truth", "adherence": "tunes-adherence", "quality": "tunes-quality"}
        rewards = {name: registry.load("rewards", entry)() for name, entry in names.items()}
        found = {name: float(reward(drawn).per_step.sum(1).mean()) for name, reward in rewards.items()}
        tastes = mean_taste([row.completion for row in drawn.rows])
        found["taste"] = sum(tastes) / len(tastes)
        found["kl"] = 0.0 if final is None else _kl(ctx, drawn)
        write_json(ctx.run_dir / FILE, found)

    return job


def quality(stage: str | None = None) -> Job:
    """A job that answers four times the test captions, decoded as in the task, and adds ``fad`` and ``mos`` to
    ``measured.json``; the answers lie in ``quality/``.

    Args:
        stage: whose policy; ``None`` for the start.
    """

    def job(ctx: RunContext) -> None:
        from mmalign.claims.baselines import answered
        from mmalign.data.jsonl import read_json, write_json

        name = stage or "start"
        model = ctx.load_model(str(_final(ctx, stage) or ctx.start_policy()))
        with ctx.decoding() as adapter:
            found = answered(
                ctx,
                adapter,
                model,
                "tunes",
                ctx.run_dir / "quality",
                temperature=ctx.cfg.evaluate.temperatures[0],
                model_info={"id": name, "arm": name},
                times=MORE,
            )
        file = ctx.run_dir / FILE
        known = read_json(file) if file.is_file() else {}
        write_json(file, {**known, **{name: found["metrics"][name]["value"] for name in ("fad", "mos")}})

    return job


def in_turn(*jobs: Job) -> Job:
    """A job that runs others one after the other."""

    def job(ctx: RunContext) -> None:
        for one in jobs:
            one(ctx)

    return job


def _final(ctx: RunContext, stage: str | None) -> Path | None:
    """The folder of a stage's policy; ``None`` for the start.

    Raises:
        UserError: when the stage left none.
    """
    final = ctx.stage_dir(stage) / "final" if stage else None
    if final is not None and not final.is_dir():
        raise UserError(f"{final}: is not there, so there is no policy to measure")
    return final


def _kl(ctx: RunContext, drawn: Rollout) -> float:
    """Mean log-ratio of policy and start over the policy's own pieces, in nats per piece."""
    import torch

    start = ctx.load_model(ctx.start_policy())
    with torch.no_grad():
        batch = ctx.adapter.collate(drawn.rows)
        before = ctx.adapter.logp(start, batch, temperature=ctx.cfg.grpo.temperature).values
    return float(((drawn.logp - before) * drawn.mask).sum(1).mean())
