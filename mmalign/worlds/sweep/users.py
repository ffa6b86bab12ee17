"""Simulated people who want different things of the same robot: all like progress, each likes one side of the table."""

from __future__ import annotations

from mmalign.worlds.sweep.data import progress
from mmalign.worlds.sweep.episode import Episode

__all__ = ["PROGRESS", "USERS", "contested", "side", "utility"]

USERS = ("left", "right")
"""Which side a user wants the robot to work on."""
PROGRESS = 0.05
"""What a unit of progress is worth beside a unit of the robot's mean place (the table is 2 wide)."""


def side(episode: Episode) -> float:
    """Mean place of the robot across the table, -1 (left) to 1 (right)."""
    return float(episode.observations[1:, 0].mean())


def utility(user: int, episode: Episode) -> float:
    """What an episode is worth to user 0 (left) or 1 (right)."""
    sign = 1.0 if USERS[user] == "right" else -1.0
    return sign * side(episode) + PROGRESS * progress(episode)


def contested(first: Episode, second: Episode) -> bool:
    """Whether the users disagree about which of two episodes is better."""
    gaps = [utility(user, first) - utility(user, second) for user in range(len(USERS))]
    return gaps[0] * gaps[1] < 0
