"""Adapters, one folder per modality; imported as ``mmalign.modalities``."""

from __future__ import annotations

if not __name__.startswith("mmalign."):
    raise ImportError(
        'write "import mmalign.modalities", not "import modalities": the folder installs under mmalign'
    )
