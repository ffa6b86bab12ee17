"""Policies that act: Gaussian, tokens or denoised chunks, in the sweep world or any gymnasium environment."""

from __future__ import annotations

from mmalign.modalities.robot.adapter import RobotAdapter
from mmalign.modalities.robot.options import RobotOptions
from mmalign.modalities.robot.policy import RobotPolicy
from mmalign.modalities.robot.steps import Decisions

__all__ = ["Decisions", "RobotAdapter", "RobotOptions", "RobotPolicy"]
