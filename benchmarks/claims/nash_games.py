"""Random preference games solved exactly, and how exploitable a toy policy's answers are under a circular judge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.data.jsonl import write_json
from mmalign.objectives.nash import nash_gap, nash_md_step
from mmalign.rng import numpy_generator
from mmalign.testing.toy_world import CYCLE

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["exact_games", "exploitability"]

GAMES, SIZE, TAU, ETA = 20, 5, 0.1, 0.1
WORDS = ("a", "b", "c")


def exact_games(ctx: RunContext) -> None:
    """Solve random intransitive games three ways and write mean regularised gaps to ``games.json``.

    Nash-MD and unregularised self-play (last iterates, 3,000 steps), and the optimum of a Bradley-Terry reward with
    a KL to the reference: the reward is fitted to comparisons of the reference's own answers, the usual data of RLHF.
    """
    gaps: dict[str, list[float]] = {"nash_md": [], "self_play": [], "bradley_terry": []}
    for game in range(GAMES):
        rng = numpy_generator(ctx.cfg.seed, "games", game)
        upper = torch.tensor(rng.uniform(0.05, 0.95, (SIZE, SIZE))).triu(1)
        preferences = upper + (1 - upper).triu(1).T + 0.5 * torch.eye(SIZE, dtype=torch.float64)
        mu = torch.tensor(rng.dirichlet([2.0] * SIZE)).log()
        nash, play = mu, mu
        for _ in range(3000):
            nash = nash_md_step(nash, mu, preferences, ETA, TAU)
            play = torch.log_softmax(play + ETA * preferences @ play.exp(), 0)
        tilted = torch.log_softmax(mu + _fitted(preferences, mu.exp()) / TAU, 0)
        for name, policy in (("nash_md", nash), ("self_play", play), ("bradley_terry", tilted)):
            gaps[name].append(float(nash_gap(policy, mu, preferences, TAU)))
    write_json(ctx.run_dir / "games.json", {name: sum(values) / GAMES for name, values in gaps.items()})


def exploitability(ctx: RunContext) -> None:
    """Write ``nash.json``: how much the best first word gains on the policy's, over 64 test prompts.

    ``gap`` is that of the game with the KL to the start (tau of the run), ``plain`` without, ``kl`` the divergence of
    the first word from the start's, ``top`` the largest mean share of a word.
    """
    rows = ctx.world.rows("test", 64, ctx.cfg.data.seed, "prompt")
    trained = ctx.stage_dir("iterate") / "final"
    start = _first_words(ctx, ctx.start_policy(), rows)
    policy = _first_words(ctx, str(trained), rows) if trained.is_dir() else start
    table = torch.tensor(CYCLE, dtype=torch.float64)
    tau = TAU
    pairs = list(zip(policy, start, strict=True))
    write_json(
        ctx.run_dir / "nash.json",
        {
            "gap": float(torch.stack([nash_gap(p, mu, table, tau) for p, mu in pairs]).mean()),
            "plain": float(torch.stack([nash_gap(p, mu, table, 0.0) for p, mu in pairs]).mean()),
            "kl": float(torch.stack([(p.exp() * (p - mu)).sum() for p, mu in pairs]).mean()),
            "top": float(policy.exp().mean(0).max()),
        },
    )


@torch.no_grad()
def _first_words(ctx: RunContext, source: str, rows: list) -> Tensor:  # type: ignore[type-arg]
    """Log-probabilities ``[N, 4]`` of the three words and of any other first word."""
    model = ctx.load_model(source)
    columns = []
    for word in WORDS:
        batch = ctx.adapter.collate([replace(row, completion=word, steps=None) for row in rows])
        columns.append(ctx.adapter.logp(model, batch).values[:, 0].double())
    known = torch.stack(columns, 1).exp()
    other = (1 - known.sum(1, keepdim=True)).clamp(min=1e-6)
    return torch.cat([known, other], 1).log()


def _fitted(preferences: Tensor, weights: Tensor) -> Tensor:
    """Bradley-Terry scores of comparisons between answers drawn with ``weights``, by Newton's method."""
    pairs = weights[:, None] * weights[None, :]
    scores = torch.zeros(SIZE, dtype=torch.float64)
    for _ in range(100):
        probs = torch.sigmoid(scores[:, None] - scores[None, :])
        gradient = (pairs * (preferences - probs)).sum(1)
        curve = pairs * probs * (1 - probs)
        hessian = torch.diag(curve.sum(1)) - curve + torch.ones_like(curve) / SIZE  # the constant is free
        scores = scores + torch.linalg.solve(hessian, gradient)
    return scores - scores.mean()
