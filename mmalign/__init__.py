"""mmalign: post-training and alignment for models of every modality.

Importing the package costs nothing: torch and transformers load when a command needs them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["__version__"]

__version__ = "0.1.0"

_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "modalities" / "__init__.py").is_file():
    # In a checkout modalities/, rewards/ and benchmarks/ stand beside this folder, not inside it.
    __path__.append(str(_CHECKOUT))
