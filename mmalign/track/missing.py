"""Import a tracker's package, or say how to install it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from mmalign.errors import UserError

__all__ = ["require"]


def require(module: str, package: str, name: str) -> ModuleType:
    """Return the imported ``module``.

    Args:
        module: what to import.
        package: what to install for it.
        name: the tracker as written in ``report_to``.

    Raises:
        UserError: when it is not installed, with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"report_to: {name} needs the package {package} ({error}); "
            f"install it with: {sys.executable} -m pip install {package}"
        ) from None
