"""One round's answers, labels and choice, with a file that says what was chosen and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.data.content import answer_digest
from mmalign.engine.atomic import write_text
from mmalign.engine.iterate.collect import draw, draw_mixture
from mmalign.engine.iterate.select import (
    Item,
    best_against_worst,
    best_of_each,
    data_items,
    penalised,
    random_of_each,
    top_of_all,
)
from mmalign.engine.order import rows_for_step
from mmalign.engine.reference import row_key
from mmalign.errors import UserError
from mmalign.rng import generator

if TYPE_CHECKING:
    from pathlib import Path

    from mmalign.engine.iterate.loop import IterativeTrainer
    from mmalign.types import Rollout, Row

__all__ = ["Round", "open_round"]


@dataclass(frozen=True, slots=True)
class Round:
    """What the updates of round ``number`` learn from."""

    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers with their scores: ``rows[p][k]``, ``scores`` and ``lengths`` ``[P, K]``."""

    rows: list[list[Row]]
    scores: Tensor
    lengths: Tensor


def open_round(trainer: IterativeTrainer, number: int, resumed: bool) -> tuple[Round, dict[str, float]]:
    """Collect, label and select the round; the model has the weights of the round's start.

    Args:
        trainer: whose round it is.
        number: counted from 0.
        resumed: whether an earlier process began this round: its labels are read from its file.

    Raises:
        UserError: when the first round selects nothing.
    """
    cfg = trainer.cfg
    prompts = rows_for_step(trainer.rows, cfg.prompts, number + 1, seed=trainer.seed, stage=trainer.name)
    if cfg.label == "data":
        items, metrics = _from_data(trainer, prompts, number)
    else:
        items, metrics = _from_labels(trainer, prompts, number, resumed)
    metrics["collect/items"] = float(len(items))
    if not items and number == 0:
        raise UserError(
            f"stage {trainer.name}: the first round of {cfg.prompts} prompts selects no answer (select: {cfg.select}); "
            "raise num_generations, or lower threshold or min_gap"
        )
    return Round(number, tuple(items)), metrics


def _from_data(
    trainer: IterativeTrainer, prompts: list[Row], number: int
) -> tuple[list[Item], dict[str, float]]:
    cfg = trainer.cfg
    bare = next((row for row in prompts if row.completion is None), None)
    if bare is not None:
        raise UserError(f"row {bare.id}: has no answer; label: data learns from the rows' own 'completion'")
    if cfg.shuffle_labels:
        order = torch.randperm(len(prompts), generator=_stream(trainer, "shuffle", number)).tolist()
        prompts = [
            replace(row, completion=prompts[k].completion) for row, k in zip(prompts, order, strict=True)
        ]
    if cfg.select == "data":
        return data_items(prompts, None), {}
    n = cfg.num_generations
    names = (trainer.name, "collect", number)
    rows = _grouped(draw(trainer.drawing(), trainer.model, prompts, n, names), n)
    items = data_items(prompts, rows)
    return items, {"collect/same_as_data": 1.0 - len(items) / (len(prompts) * n)}


def _from_labels(
    trainer: IterativeTrainer, prompts: list[Row], number: int, resumed: bool
) -> tuple[list[Item], dict[str, float]]:
    cfg, n = trainer.cfg, trainer.cfg.num_generations
    rollouts = draw(trainer.drawing(), trainer.model, prompts, n, (trainer.name, "collect", number))
    scores, metrics = _scores(trainer, prompts, rollouts, number, resumed)
    lengths = torch.cat([rollout.mask.sum(1) for rollout in rollouts]).view(-1, n)
    if cfg.select != "all":
        metrics["collect/reward"] = float(scores.mean())
        metrics["collect/best"] = float(scores.amax(1).mean())
    metrics["collect/length"] = float(lengths.float().mean())
    worth = penalised(scores, lengths.to(scores.device), cfg.length_penalty, cfg.length_penalty_kind)
    if cfg.shuffle_labels:
        order = torch.randperm(worth.numel(), generator=_stream(trainer, "shuffle", number))
        worth = worth.flatten()[order.to(worth.device)].view_as(worth)
    return _select(trainer, _Answers(_grouped(rollouts, n), worth, lengths), number, metrics)


def _scores(
    trainer: IterativeTrainer, prompts: list[Row], rollouts: list[Rollout], number: int, resumed: bool
) -> tuple[Tensor, dict[str, float]]:
    """Scores ``[P, K]``; for Nash-MD the probabilities of beating the mixture's answers."""
    cfg, n = trainer.cfg, trainer.cfg.num_generations
    file = trainer.folder / "rounds" / f"{number}.jsonl"
    answers = [row for rollout in rollouts for row in rollout.rows]
    metrics: dict[str, float] = {}
    known = _read(file, answers) if resumed and cfg.label == "judge" else None
    if known is not None:
        return known.view(-1, n), metrics
    assert trainer.labels is not None
    labels = trainer.labels()
    if cfg.select == "all":
        reference = trainer.weights.reference(cfg.reference)
        names = (trainer.name, "opponent", number)
        opponents, share = draw_mixture(
            trainer.drawing(), trainer.model, reference, prompts, n, cfg.mixture, names
        )
        metrics["collect/effective_share"] = share
        scores = labels.preference(rollouts, opponents).view(-1, n)
    else:
        scores = labels.scores(rollouts, n)
    if trainer.accelerator is None or trainer.accelerator.is_main_process:
        _write(file, answers, scores)
    return scores, metrics


def _select(
    trainer: IterativeTrainer, answers: _Answers, number: int, metrics: dict[str, float]
) -> tuple[list[Item], dict[str, float]]:
    cfg, rows, scores = trainer.cfg, answers.rows, answers.scores
    if cfg.select == "all":
        values = scores.tolist()
        return [
            Item(row, value=values[p][k]) for p, line in enumerate(rows) for k, row in enumerate(line)
        ], metrics
    if cfg.select == "best_worst":
        chosen = best_against_worst(scores, cfg.min_gap)
        metrics["collect/ties"] = 1.0 - len(chosen) / len(rows)
        metrics["collect/longer_chosen"] = _longer(answers.lengths, chosen)
        return [Item(rows[p][b], rows[p][w]) for p, b, w in chosen], metrics
    if cfg.select == "best":
        places = best_of_each(scores)
    elif cfg.select == "top":
        places = top_of_all(scores, len(rows))
    elif cfg.select == "random":
        places = random_of_each(scores, _stream(trainer, "random", number))
    else:
        places = [
            divmod(k, scores.shape[1])
            for k in (scores.flatten() >= cfg.threshold).nonzero().flatten().tolist()
        ]
    metrics["collect/prompts_used"] = len({p for p, _ in places}) / len(rows)
    metrics["collect/selected"] = sum(float(scores[p, k]) for p, k in places) / max(1, len(places))
    if cfg.update != "superhf":
        return [Item(rows[p][k]) for p, k in places], metrics
    shifts = torch.randint(
        1, scores.shape[1], (len(places),), generator=_stream(trainer, "free", number)
    ).tolist()
    width = scores.shape[1]
    return [
        Item(rows[p][k], rows[p][(k + s) % width]) for (p, k), s in zip(places, shifts, strict=True)
    ], metrics


def _longer(lengths: Tensor, chosen: list[tuple[int, int, int]]) -> float:
    """Share of pairs whose chosen answer is the longer one (0.5 for equal): the length bias of the labels."""
    sides = [
        float(lengths[p, b] > lengths[p, w]) + 0.5 * float(lengths[p, b] == lengths[p, w])
        for p, b, w in chosen
    ]
    return sum(sides) / max(1, len(sides))


def _grouped(rollouts: Sequence[Rollout], n: int) -> list[list[Row]]:
    rows = [row for rollout in rollouts for row in rollout.rows]
    return [rows[k : k + n] for k in range(0, len(rows), n)]


def _stream(trainer: IterativeTrainer, what: str, number: int) -> torch.Generator:
    return generator(trainer.seed, trainer.name, what, number)


def _write(file: Path, answers: Sequence[Row], scores: Tensor) -> None:
    lines = [
        json.dumps({"id": row.id, "key": row_key(row)[:16], "score": score, "answer": _shown(row.completion)})
        for row, score in zip(answers, scores.flatten().tolist(), strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join(lines) + "\n")


def _read(file: Path, answers: Sequence[Row]) -> Tensor | None:
    """The labels of these very answers, where an earlier process wrote them."""
    if not file.is_file():
        return None
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if [record["key"] for record in records] != [row_key(row)[:16] for row in answers]:
        return None
    return torch.tensor([float(record["score"]) for record in records])


def _shown(answer: object) -> str:
    """The beginning of a text, the hash of any other answer: the same answer is always written the same way."""
    return answer[:500] if isinstance(answer, str) else answer_digest(answer)[:16]
