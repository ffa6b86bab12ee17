"""Tasks, parsers, metrics and claims; imported as ``mmalign.benchmarks``."""

from __future__ import annotations

if not __name__.startswith("mmalign."):
    raise ImportError(
        'write "import mmalign.benchmarks", not "import benchmarks": the folder installs under mmalign'
    )
