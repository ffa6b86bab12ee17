"""Answer parsers, each a pure function with a name and a version."""

from __future__ import annotations

from mmalign.benchmarks.parsers.yesno import YES_NO_PARSERS

__all__ = ["YES_NO_PARSERS"]
