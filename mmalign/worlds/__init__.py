"""Seeded worlds whose truth is known exactly, so that every claim about a model can be checked."""

from __future__ import annotations
