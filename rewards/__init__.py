"""Rewards, one folder or file per family; imported as ``mmalign.rewards``."""

from __future__ import annotations

if not __name__.startswith("mmalign."):
    raise ImportError(
        'write "import mmalign.rewards", not "import rewards": the folder installs under mmalign'
    )
