"""What the scripts that train and evaluate share: ``--config``, one flag per configuration key, and ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.cli.arguments import CommandParser, config_from

if TYPE_CHECKING:
    from mmalign.config.schema import RunConfig

__all__ = ["script_config"]


def script_config(text: str | None, recipe: str) -> RunConfig:
    """The configuration that a script's command line asks for.

    Args:
        text: the script's docstring, shown by ``--help`` above the list of configuration keys.
        recipe: what ``--config`` stands for when it is not given.

    Raises:
        UserError: for an unknown recipe or file, or wrong keys and values.
    """
    parser = CommandParser(Path(sys.argv[0]).name, text or "", program="python scripts/")
    parser.add_argument(
        "--config", metavar="X", default=recipe, help="a recipe's name, a YAML file or a run folder"
    )
    options, flags = parser.with_flags(sys.argv[1:])
    return config_from(options.config, flags)
