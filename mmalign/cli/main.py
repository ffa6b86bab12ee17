"""``mmalign COMMAND``: a table of commands, each in a file of its own; torch loads when one needs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mmalign import __version__
from mmalign.cli.errors import friendly
from mmalign.errors import UserError, nearest

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "run the main job on the embedded default and print before and after"),
    "run": ("run", "run a recipe: a shipped one by name or your own YAML"),
    "train": ("train", "run one training stage alone: sft, reward_model, dpo, ppo, grpo, ..."),
    "judge": ("judge", "collect feedback on the start policy's answers"),
    "evaluate": ("evaluate", "evaluate the policies of a run, or any model on bundled tasks"),
    "report": ("report", "write report.html from the files of a run"),
    "compare": ("compare", "compare two runs, paired by sample"),
    "merge": ("merge", "merge trained models: soup, ties, dare, breadcrumbs, slerp, task arithmetic"),
    "claims": ("claims", "list claims or run one: a paper's statement as an experiment"),
    "bench": ("bench", "time mmalign against TRL on the same numbers: bench list, bench NAME [--quick]"),
    "data": ("data", "check a file of rows: data check FILE [--against FILE ...]"),
    "list": ("listing", "modalities, rewards, tasks, judges, ...; failed plug-ins and why"),
    "doctor": ("doctor", "versions, device, missing extras and how to install them"),
    "new": ("new", "write a plug-in package: new modality NAME, new reward NAME"),
}
"""Command -> its module under ``mmalign.cli`` and one line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with friendly():
        return _dispatch(arguments)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"mmalign {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"{name}: no such command{nearest(name, COMMANDS)}; try mmalign --help")
    module = importlib.import_module(f"mmalign.cli.{COMMANDS[name][0]}")
    return int(module.main(rest))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mmalign COMMAND [options]      (mmalign COMMAND --help for one command)",
            "",
            *lines,
            "",
            "start with: mmalign demo --quick",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
