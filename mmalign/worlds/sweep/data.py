"""Rows of the sweep world: starts to act from, expert episodes to imitate, and compared segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Row
from mmalign.worlds.sweep.episode import Episode
from mmalign.worlds.sweep.experts import Skill, play
from mmalign.worlds.sweep.layout import EMBODIMENTS, TASKS, Start

__all__ = [
    "DEMONSTRATOR",
    "HELD_OUT",
    "LEAST_GAP",
    "READERS",
    "ROW_KINDS",
    "SEGMENT_STEPS",
    "SKILLS",
    "SPLITS",
    "progress",
    "rows",
    "segment_pairs",
    "starts",
]

ROW_KINDS = ("start", "caption", "preference")
"""What ``rows`` can make: starts, starts with an expert's episode as the answer, and pairs of segments."""
SPLITS = ("train", "validation", "test")
"""No two share a start."""
HELD_OUT = "long"
"""The embodiment that no training row has."""
READERS = {"eye": Path(__file__).parent / "eye"}
"""Starts of reward models: an encoder of frames after ``scripts/train_eye.py``, which saw no label and no reward."""
DEMONSTRATOR = Skill(noise=0.2, aim=0.03, pause=0.05)
"""The expert whose episodes ``caption`` rows hold: it succeeds in about 19 episodes of 20."""
SEGMENT_STEPS = 20
"""Length of a compared segment, in steps."""
LEAST_GAP = 0.02
"""Segments whose progress differs by less are not compared."""
SKILLS = (Skill(), Skill(noise=0.5, aim=0.05, pause=0.2), Skill(noise=1.0, aim=0.15, pause=0.5))
"""Experts whose segments are compared."""
_TRIES = 20


def starts(
    split: str,
    n: int,
    seed: int = 0,
    *,
    tasks: Sequence[str] = TASKS,
    embodiments: Sequence[str] | None = None,
) -> list[Start]:
    """The first ``n`` starts of a split, going round every task and embodiment; row ``i`` is the same whatever ``n``.

    Args:
        split: one of :data:`SPLITS`; ``train`` goes without :data:`HELD_OUT`.
        n: how many.
        seed: which stream of starts.
        tasks: which tasks.
        embodiments: which embodiments; ``None`` for those of the split.

    Raises:
        UserError: for an unknown split, task or embodiment.
    """
    if split not in SPLITS:
        raise UserError(f'sweep: split "{split}" is not one of {", ".join(SPLITS)}{nearest(split, SPLITS)}')
    if embodiments is None:
        embodiments = [name for name in EMBODIMENTS if split != "train" or name != HELD_OUT]
    kinds = [(task, body) for body in embodiments for task in tasks]
    return [Start(*kinds[i % len(kinds)], derive_seed(seed, "sweep", split, i) % 2**31) for i in range(n)]


def rows(
    split: str,
    n: int,
    seed: int = 0,
    kind: str = "start",
    *,
    skill: Skill = DEMONSTRATOR,
    tasks: Sequence[str] = TASKS,
    embodiments: Sequence[str] | None = None,
) -> list[Row]:
    """The first ``n`` rows of a split; ``prompt`` is the start as text, ``meta["start"]`` the same as a mapping.

    ``caption`` rows have an episode of ``skill`` as ``completion``, whatever came of it; ``preference`` rows compare
    two segments from one start, of which ``chosen`` made more progress.

    Raises:
        UserError: when ``split`` or ``kind`` is unknown.
    """
    if kind not in ROW_KINDS:
        raise UserError(
            f'sweep: row kind "{kind}" is not one of {", ".join(ROW_KINDS)}{nearest(kind, ROW_KINDS)}'
        )
    found = starts(split, n, seed, tasks=tasks, embodiments=embodiments)
    plain = [_row(f"sweep-{split}-{seed}-{i}", start) for i, start in enumerate(found)]
    if kind == "start":
        return plain
    if kind == "caption":
        episodes = play(found, skill=skill, seed=seed)
        return [replace(row, completion=episode) for row, episode in zip(plain, episodes, strict=True)]
    pairs = segment_pairs(found, seed)
    return [replace(row, chosen=a, rejected=b) for row, (a, b) in zip(plain, pairs, strict=True)]


def _row(name: str, start: Start) -> Row:
    meta = {
        "start": {"task": start.task, "embodiment": start.embodiment, "seed": start.seed},
        "task": start.task,
        "embodiment": start.embodiment,
    }
    return Row(id=name, prompt=str(start), meta=meta)


def progress(episode: Episode) -> float:
    """How much nearer the blocks came to where they belong, plus 1 for success: the truth behind a comparison.

    Raises:
        ValueError: for an episode without a potential.
    """
    if episode.potential is None:
        raise ValueError("the episode has no potential, so its progress is unknown")
    return float(episode.potential[-1, 0] - episode.potential[0, 0]) + float(episode.ended_well)


def segment_pairs(
    found: Sequence[Start], seed: int, *, steps: int = SEGMENT_STEPS, skills: Sequence[Skill] = SKILLS
) -> list[tuple[Episode, Episode]]:
    """Two segments of ``steps`` steps from each start, the better first, by experts of two skills drawn at random.

    Both are cut at the same place.  Where nothing differs by more than :data:`LEAST_GAP` after a few draws, whole
    episodes are compared.  A pair depends on ``seed`` and its own start alone.
    """
    played = [play(found, skill=skill, seed=derive_seed(seed, "skill", k)) for k, skill in enumerate(skills)]
    return [_pair([each[i] for each in played], start, seed, steps) for i, start in enumerate(found)]


def _pair(episodes: Sequence[Episode], start: Start, seed: int, steps: int) -> tuple[Episode, Episode]:
    rng = numpy_generator(seed, "segments", str(start))
    for _ in range(_TRIES):
        a, b = (episodes[int(k)] for k in rng.choice(len(episodes), 2, replace=False))
        place = int(rng.integers(max(min(len(a), len(b)) - steps, 0) + 1))
        pieces = [episode.cut(place, min(place + steps, len(episode))) for episode in (a, b)]
        gap = progress(pieces[0]) - progress(pieces[1])
        if abs(gap) > LEAST_GAP:
            return (pieces[0], pieces[1]) if gap > 0 else (pieces[1], pieces[0])
    ordered = sorted(episodes, key=progress)
    return ordered[-1], ordered[0]
