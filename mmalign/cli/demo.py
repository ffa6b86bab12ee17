"""``mmalign demo``: the main job on the embedded default, with a table of before and after."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, config_from
from mmalign.errors import UserError

__all__ = ["main"]

ESTIMATES = {"demo-vision": "3 minutes", "demo-vision-quick": "60 seconds"}
"""Run time of the demos, measured on two cores of a 2024 server processor with one thread a process."""


def main(argv: Sequence[str]) -> int:
    """Run the demo recipe of a modality and print its headline."""
    parser = CommandParser("demo", "Run the main job on the embedded default; nothing is downloaded.")
    parser.add_argument(
        "--quick", action="store_true", help="at most 90 seconds on two CPU cores, rough numbers"
    )
    parser.add_argument("--modality", default="vision", help="whose demo (default vision)")
    options, flags = parser.with_flags(argv)
    from mmalign.config.load import recipe_names

    name = f"demo-{options.modality}" + ("-quick" if options.quick else "")
    if name not in recipe_names():
        shown = sorted(
            n.removeprefix("demo-") for n in recipe_names() if n.startswith("demo-") and "quick" not in n
        )
        raise UserError(f"--modality {options.modality}: there is no such demo; there are {', '.join(shown)}")
    cfg = config_from(name, flags)
    from rich.console import Console

    from mmalign.pipeline.run import run_recipe
    from mmalign.report.headline import headline_table

    minutes = ESTIMATES.get(name)
    if minutes is not None:
        print(
            f"about {minutes} on two free CPU cores; the bars show what is left, and the same command resumes"
        )
    folder = run_recipe(cfg)
    Console().print(headline_table(folder))
    print(f"report: {folder / 'report.html'}")
    return 0
