"""Claims that mmalign makes, each an experiment that anyone can run again."""

from __future__ import annotations
