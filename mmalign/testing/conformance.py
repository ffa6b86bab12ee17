"""The suites a plug-in author runs: ``modality_suite(adapter, rows, model)`` and ``reward_suite(reward, rollout)``.

Each raises ``AssertionError`` with a sentence that says what is wrong, and returns the names of the
checks that ran.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mmalign.data.content import answer_digest
from mmalign.protocols import Borrows, Conditioned, Likelihood, Reward, Samples
from mmalign.rng import generator
from mmalign.testing.checks import close, logp_of, require, same_rows_alone
from mmalign.types import LogP, Rollout, Row, StepReward

__all__ = ["modality_suite", "reward_suite"]


def modality_suite(
    adapter: Likelihood, rows: Sequence[Row], model: nn.Module, *, max_steps: int = 16
) -> list[str]:
    """Check an adapter against the contract of :mod:`mmalign.protocols`.

    Args:
        adapter: the plug-in.
        rows: at least 3 rows with answers of different lengths and, where it has media, different media.
        model: a loaded model, in eval mode afterwards.
        max_steps: longest sampled answer.

    Raises:
        AssertionError: for the first check that fails.
    """
    require(
        isinstance(adapter, Likelihood),
        "the adapter lacks a part of Likelihood: name, load, save, collate, logp",
    )
    require(len(rows) >= 3, f"give at least 3 rows, got {len(rows)}")
    model.eval()
    ran = ["shapes", "batch", "order", "determinism", "temperature", "gradient", "save"]
    _shapes(adapter, rows, model)
    same_rows_alone(adapter, model, rows, logp_of(adapter, model, rows))
    _order(adapter, rows, model)
    _determinism(adapter, rows, model)
    _temperature(adapter, rows, model)
    _gradient(adapter, rows, model)
    _save_and_load(adapter, rows, model)
    if isinstance(adapter, Samples):
        _sampling(adapter, adapter, rows, model, max_steps)
        ran.append("sampling")
    if isinstance(adapter, Conditioned) and (isinstance(adapter, Borrows) or any(row.media for row in rows)):
        _blank(adapter, adapter, rows, model)
        ran.append("blank")
    return ran


def _shapes(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    batch = adapter.collate(rows)
    require(len(batch) == len(rows), f"collate returned {len(batch)} rows for {len(rows)}")
    require(batch.mask.dtype == torch.bool, f"the batch's mask is {batch.mask.dtype}, expected bool")
    scored = logp_of(adapter, model, rows)
    shape = tuple(scored.values.shape)
    require(len(shape) == 2 and shape[0] == len(rows), f"logp has shape {shape}, expected [{len(rows)}, T]")
    require(scored.mask.shape == scored.values.shape, "logp and mask have different shapes")
    require(torch.equal(scored.mask.cpu(), batch.mask.cpu()), "logp's mask differs from the batch's")
    _left_aligned(scored.mask)
    require(bool(torch.isfinite(scored.values[scored.mask]).all()), "logp is not finite on a real step")
    if scored.moments is not None:
        _moments(scored)
    elif not scored.surrogate and scored.entropy is not None:  # the entropy of a density may be negative
        require(bool((scored.entropy[scored.mask] >= -1e-5).all()), "entropy is negative on a real step")
    if scored.hidden is not None:
        states = tuple(scored.hidden.shape[:2])
        require(
            states == (shape[0], shape[1] + 1), f"hidden has shape {states} + [H], expected [B, T + 1, H]"
        )


def _moments(scored: LogP) -> None:
    mean, std = scored.moments or (scored.values, scored.values)
    shape = (*scored.values.shape, scored.dims)
    require(tuple(mean.shape) == shape, f"the steps' means have shape {tuple(mean.shape)}, expected {shape}")
    require(std.shape == scored.values.shape, "the steps' standard deviations and logp have different shapes")
    require(
        bool((std[scored.mask] > 0).all()), "a step with no spread is deterministic: take it off the mask"
    )


def _left_aligned(mask: Tensor) -> None:
    require(mask.dtype == torch.bool, f"the mask is {mask.dtype}, expected bool")
    require(bool(mask[:, 0].all()), "step 0 of every sample must stand in column 0 (steps are left-aligned)")
    require(
        not bool((mask[:, 1:] & ~mask[:, :-1]).any()), "the mask has a hole: real steps must be contiguous"
    )


def _order(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    if logp_of(adapter, model, rows).surrogate:
        return  # a random score draws row by row, so another order is another draw
    forward, backward = logp_of(adapter, model, rows), logp_of(adapter, model, list(rows)[::-1])
    close(
        torch.where(forward.mask, forward.values, 0.0),
        torch.where(backward.mask, backward.values, 0.0).flip(0),
        "logp depends on the order of rows in the batch",
    )


def _determinism(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    first, second = logp_of(adapter, model, rows), logp_of(adapter, model, rows)
    require(
        torch.equal(first.values, second.values),
        "two calls of logp with one seed differ (dropout? a hidden rng?)",
    )


def _temperature(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    if logp_of(adapter, model, rows).surrogate:
        return
    one, two = logp_of(adapter, model, rows, 1.0), logp_of(adapter, model, rows, 2.0)
    moved = (one.values - two.values)[one.mask].abs().max()
    require(float(moved) > 1e-6, "logp ignores its temperature, so it cannot equal a sampler's log-probs")


def _gradient(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    scored = adapter.logp(model, adapter.collate(rows), generator(0, "conformance"))
    trainable = [p for p in model.parameters() if p.requires_grad]
    require(bool(trainable), "the model has no parameter that trains")
    grads = torch.autograd.grad(scored.values[scored.mask].mean(), trainable, allow_unused=True)
    found = [grad for grad in grads if grad is not None]
    require(bool(found), "no gradient reaches the model from logp (is it detached?)")
    require(all(bool(torch.isfinite(grad).all()) for grad in found), "a gradient of logp is not finite")
    require(any(float(grad.abs().max()) > 0 for grad in found), "every gradient of logp is zero")


def _save_and_load(adapter: Likelihood, rows: Sequence[Row], model: nn.Module) -> None:
    before = logp_of(adapter, model, rows)
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(model, Path(folder) / "model")
        pickles = [p.name for p in Path(folder).rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
        require(not pickles, f"save wrote {pickles}; write safetensors")
        again = adapter.load(str(Path(folder) / "model")).eval()
        after = logp_of(adapter, again, rows)
    close(
        torch.where(after.mask, after.values, 0.0),
        torch.where(before.mask, before.values, 0.0),
        "logp after save and load",
    )


def _sampling(
    adapter: Likelihood, sampler: Samples, rows: Sequence[Row], model: nn.Module, max_steps: int
) -> None:
    prompts = [replace(row, completion=None, steps=None, segments=()) for row in rows]
    for temperature in (1.0, 0.7):
        first = sampler.sample(model, prompts, 2, generator(7), temperature=temperature, max_steps=max_steps)
        _rollout(first, prompts, 2, max_steps)
        scored = logp_of(adapter, model, first.rows, temperature)
        require(
            torch.equal(scored.mask, first.mask),
            "collate of sampled rows has other steps than were drawn (use row.steps, keep the end token)",
        )
        close(
            torch.where(scored.mask, scored.values, 0.0),
            torch.where(first.mask, first.logp, 0.0),
            f"behaviour log-probs at temperature {temperature} against logp of the same steps",
        )
    again = sampler.sample(model, prompts, 2, generator(7), temperature=0.7, max_steps=max_steps)
    require(torch.equal(first.logp, again.logp), "two samples with one seed differ")
    greedy = [
        sampler.sample(model, prompts, 1, generator(k), temperature=0.0, max_steps=max_steps) for k in (1, 2)
    ]
    if getattr(adapter, "random_start", False):  # the start is drawn; all that follows it is not
        greedy[1] = sampler.sample(model, prompts, 1, generator(1), temperature=0.0, max_steps=max_steps)
    require(_steps(greedy[0]) == _steps(greedy[1]), "greedy answers depend on the seed")


def _steps(rollout: Rollout) -> list[str]:
    return [answer_digest(row.steps) for row in rollout.rows]


def _rollout(rollout: Rollout, rows: Sequence[Row], n: int, max_steps: int) -> None:
    size = len(rows) * n
    require(len(rollout) == size, f"sample returned {len(rollout)} answers, expected {len(rows)} x {n}")
    _left_aligned(rollout.mask)
    require(rollout.mask.shape[1] <= max_steps, f"an answer has more than max_steps = {max_steps} steps")
    require(rollout.logp.shape == rollout.mask.shape, "behaviour logp and mask have different shapes")
    require(bool(torch.isfinite(rollout.logp[rollout.mask]).all()), "a behaviour log-prob is not finite")
    require(tuple(rollout.finished.shape) == (size,), "finished must have shape [B]")
    group = [place // n for place in range(size)]
    numbers = rollout.group.tolist()
    same = [(numbers[a] == numbers[b]) == (group[a] == group[b]) for a in range(size) for b in range(size)]
    require(all(same), "group must number the prompts, with the n answers of one prompt together")
    for place, row in enumerate(rollout.rows):
        require(
            row.id == rows[place // n].id,
            f"answer {place} belongs to row {row.id}, expected {rows[place // n].id}",
        )
        require(
            row.steps is not None and row.completion is not None, f"answer {place} lacks steps or completion"
        )
        length = int(rollout.mask[place].sum())
        for segment in row.segments:
            inside = 0 <= segment.start < segment.end <= length
            require(inside, f"row {row.id}: segment {segment.start}-{segment.end} leaves the {length} steps")


def _blank(adapter: Likelihood, conditioned: Conditioned, rows: Sequence[Row], model: nn.Module) -> None:
    if not isinstance(adapter, Borrows):
        rows = [row for row in rows if row.media]
    blank = [conditioned.blank(row) for row in rows]
    require(
        [len(row.media) for row in blank] == [len(row.media) for row in rows],
        "blank changed the number of media",
    )
    seen, unseen = logp_of(adapter, model, rows), logp_of(adapter, model, blank)
    require(torch.equal(seen.mask, unseen.mask), "blank changed the steps of the answer")
    moved = (seen.values - unseen.values)[seen.mask].abs().max()
    require(
        float(moved) > 1e-6, "log-probs do not move when the evidence is blanked: the model never looks at it"
    )


def reward_suite(reward: Reward, rollout: Rollout) -> list[str]:
    """Check a reward against the contract: shapes, zeros off the mask, parts that add up, determinism.

    Args:
        reward: the plug-in.
        rollout: at least 2 answers.

    Raises:
        AssertionError: for the first check that fails.
    """
    require(isinstance(reward, Reward), "the reward is not callable")
    require(len(rollout) >= 2, f"give a rollout of at least 2 answers, got {len(rollout)}")
    made, again = reward(rollout), reward(rollout)
    require(
        isinstance(made, StepReward), f"the reward returned a {type(made).__name__}, expected a StepReward"
    )
    shape = tuple(rollout.mask.shape)
    require(
        tuple(made.per_step.shape) == shape,
        f"per_step has shape {tuple(made.per_step.shape)}, expected {shape}",
    )
    require(bool(made.parts), "the reward names no parts; give at least {name: per_step}")
    for name, part in {"per_step": made.per_step, **made.parts}.items():
        require(bool(torch.isfinite(part).all()), f"{name} is not finite")
        require(not bool(part[~rollout.mask].any()), f"{name} is not zero off the mask")
        require(not part.requires_grad, f"{name} carries a gradient; rewards are numbers")
    require(torch.equal(made.per_step, again.per_step), "two calls on one rollout differ")
    return ["shapes", "finite", "mask", "parts", "determinism"]
