"""What several commands share: one's own options apart from configuration flags, and where a config comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.config.schema import RunConfig

__all__ = ["CommandParser", "add_config_options", "config_from", "run_folder"]


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are user errors and whose help can list configuration keys."""

    def __init__(self, command: str, description: str, program: str = "mmalign ") -> None:
        super().__init__(
            prog=program + command,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as a user error."""
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    def with_flags(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse own options; what is left are configuration flags such as ``--ppo.kl_coef 0.1``."""
        if "-h" in argv or "--help" in argv:
            from mmalign.config.describe import describe

            self.epilog = "configuration flags (mmalign list recipes shows starting points):\n" + describe()
        return self.parse_known_args(list(argv))


def add_config_options(parser: CommandParser) -> None:
    """Add ``--config`` and ``--dry-run``."""
    parser.add_argument("--config", metavar="X", help="a recipe's name, a YAML file or a run folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, run one real step, write nothing"
    )


def config_from(source: str | None, flags: Sequence[str]) -> RunConfig:
    """The configuration of a recipe, a YAML file or an existing run folder, with flags on top.

    Raises:
        UserError: for an unknown source or wrong keys and values.
    """
    from mmalign.config.load import load_config

    source = source or "fgaif"
    if Path(source).is_dir():
        folder = run_folder(source)
        return load_config(folder / "config.yaml", ["--output_dir", source, *flags])
    return load_config(source, flags)


def run_folder(text: str) -> Path:
    """A run folder given on the command line.

    Raises:
        UserError: when it is none.
    """
    folder = Path(text)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{text}: not a run folder (no config.yaml in it)")
    return folder
