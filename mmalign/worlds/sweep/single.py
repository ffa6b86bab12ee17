"""One task of the sweep world at a time, with recorded episodes of mixed skill and whole episodes compared.

For learning from recordings: ``caption`` rows go round experts from good to hopeless, ``preference`` rows compare two
whole episodes from one start.  :data:`ZONE` sweeps with the short and the medium stick, :data:`CARRY` carries a block
to a goal with the gripper, :data:`DEMOS` the same there and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed
from mmalign.types import Row
from mmalign.worlds.seeds import BASES
from mmalign.worlds.sweep.data import READERS, ROW_KINDS, SKILLS, segment_pairs, starts
from mmalign.worlds.sweep.environment import MAX_STEPS
from mmalign.worlds.sweep.experts import Skill, play
from mmalign.worlds.sweep.layout import BACK, Start

__all__ = ["CARRY", "DEMOS", "ZONE", "OneTask"]


@dataclass(frozen=True)
class OneTask:
    """A world of one task.

    Args:
        task: which.
        embodiments: who acts, in every split.
        skills: experts of the recorded episodes, in turn.
        both_ways: every second recorded or compared episode goes the way back (:data:`BACK`); starts never do.
    """

    task: str
    embodiments: tuple[str, ...]
    skills: tuple[Skill, ...] = SKILLS
    both_ways: bool = False
    BASES: ClassVar[tuple[str, ...]] = BASES
    READERS: ClassVar[Mapping[str, Path]] = READERS

    def rows(self, split: str, n: int, seed: int = 0, kind: str = "start") -> list[Row]:
        """The first ``n`` rows of a split, of a kind that the whole world has too.

        Raises:
            UserError: when ``split`` or ``kind`` is unknown.
        """
        if kind not in ROW_KINDS:
            raise UserError(
                f'sweep: row kind "{kind}" is not one of {", ".join(ROW_KINDS)}{nearest(kind, ROW_KINDS)}'
            )
        own = derive_seed(seed, "one task", self.task) % 2**31
        found = starts(split, n, own, tasks=(self.task,), embodiments=self.embodiments)
        if self.both_ways and kind != "start":
            found = [Start(s.task, s.embodiment, s.seed + BACK * (i % 2)) for i, s in enumerate(found)]
        plain = [
            Row(
                id=f"{self.task}-{split}-{seed}-{i}",
                prompt=str(start),
                meta={
                    "start": {"task": start.task, "embodiment": start.embodiment, "seed": start.seed},
                    "task": start.task,
                    "embodiment": start.embodiment,
                },
            )
            for i, start in enumerate(found)
        ]
        if kind == "start":
            return plain
        if kind == "preference":
            pairs = segment_pairs(found, own, steps=MAX_STEPS, skills=self.skills)
            return [replace(row, chosen=a, rejected=b) for row, (a, b) in zip(plain, pairs, strict=True)]
        made = list(plain)
        turns = len(self.skills)
        for k, skill in enumerate(self.skills):
            mine = [i for i in range(n) if (i // len(self.embodiments)) % turns == k]
            if not mine:
                continue
            episodes = play([found[i] for i in mine], skill=skill, seed=derive_seed(own, "skill", k) % 2**31)
            for i, episode in zip(mine, episodes, strict=True):
                made[i] = replace(plain[i], completion=episode)
        return made


ZONE = OneTask("sweep", ("short", "medium"))
"""Every block into the zone, with two sticks; the long one is for tests of transfer."""
CARRY = OneTask(
    "goal", ("gripper",), (Skill(noise=0.2), Skill(noise=0.6, aim=0.06, pause=0.2), Skill(1.0, 0.2, 0.4))
)
"""One block onto the goal, with the gripper."""
DEMOS = OneTask(
    "goal",
    ("gripper",),
    (Skill(noise=0.2), Skill(noise=0.2), Skill(noise=0.6, aim=0.06, pause=0.2)),
    both_ways=True,
)
"""The same there and back, from better recordings: what somebody would show on purpose, and failures."""
