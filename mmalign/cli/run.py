"""``mmalign run RECIPE``: every stage of a recipe; the same command resumes."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, config_from
from mmalign.cli.outcome import show_outcome

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run a recipe, or check it with ``--dry-run``."""
    parser = CommandParser(
        "run", "Run a recipe from start to report.  A killed run goes on with the same command."
    )
    parser.add_argument("recipe", help="a shipped recipe's name, a YAML file or a run folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, run one real step, write nothing"
    )
    options, flags = parser.with_flags(argv)
    cfg = config_from(options.recipe, flags)
    if options.dry_run:
        from mmalign.pipeline.dry_run import dry_run

        dry_run(cfg)
        return 0
    from mmalign.pipeline.run import run_recipe

    show_outcome(run_recipe(cfg))
    return 0
