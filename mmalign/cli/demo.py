"""``mmalign demo``: the main job on the embedded default, with a table of before and after."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, config_from
from mmalign.cli.outcome import show_outcome
from mmalign.errors import UserError, nearest

__all__ = ["main"]

ESTIMATES = {
    "demo-vision": "3 minutes",
    "demo-vision-quick": "60 seconds",
    "demo-robot": "2 minutes",
    "demo-music": "5 minutes",
    "demo-diffusion": "4 minutes",
}
"""Run time of the demos, measured on two cores of a 2024 server processor with one thread a process."""


def main(argv: Sequence[str]) -> int:
    """Run the demo recipe of a modality and print its headline."""
    parser = CommandParser("demo", "Run the main job on the embedded default; nothing is downloaded.")
    parser.add_argument(
        "--quick", action="store_true", help="at most 90 seconds on two CPU cores, rough numbers"
    )
    parser.add_argument("--modality", default="vision", help="whose demo (default vision)")
    options, flags = parser.with_flags(argv)
    name = _recipe_of(options.modality) + ("-quick" if options.quick else "")
    cfg = config_from(name, flags)
    from mmalign.pipeline.run import run_recipe

    minutes = ESTIMATES.get(name)
    if minutes is not None:
        print(
            f"about {minutes} on two free CPU cores; the bars show what is left, and the same command resumes"
        )
    show_outcome(run_recipe(cfg))
    return 0


def _recipe_of(wanted: str) -> str:
    """The demo recipe that is called ``demo-WANTED``, or whose adapter is called so.

    Raises:
        UserError: when there is none, naming those there are.
    """
    from mmalign.config.load import load_config, recipe_names

    names = [name for name in recipe_names() if name.startswith("demo-") and not name.endswith("-quick")]
    found = [name for name in names if wanted == name.removeprefix("demo-")]
    found = found or [name for name in names if wanted == load_config(name).modality]
    if not found:
        shown = [name.removeprefix("demo-") for name in names]
        raise UserError(
            f"--modality {wanted}: there is no such demo{nearest(wanted, shown)}; there are {', '.join(shown)}"
        )
    return found[0]
