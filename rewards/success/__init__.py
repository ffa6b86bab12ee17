"""A learned success classifier as reward: a picture of the table to "done or not", and an alarm on its precision."""

from __future__ import annotations

from mmalign.rewards.success.recipe import PlantedSuccess, Success

__all__ = ["PlantedSuccess", "Success"]
