"""``mmalign evaluate``: the policies of a run on its tasks."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, add_config_options, config_from
from mmalign.cli.outcome import show_outcome

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the evaluate stage; answers already given are kept."""
    parser = CommandParser(
        "evaluate", "Evaluate the start and the trained policies; finished samples are kept."
    )
    parser.add_argument("run_dir", nargs="?", help="a run folder; or use --config")
    add_config_options(parser)
    options, flags = parser.with_flags(argv)
    cfg = config_from(options.run_dir or options.config, flags)
    if options.dry_run:
        from mmalign.pipeline.dry_run import dry_run

        dry_run(cfg.model_copy(update={"stages": ("evaluate",)}))
        return 0
    from mmalign.pipeline.run import run_stage

    folder = run_stage(cfg, "evaluate")
    show_outcome(folder, every_task=True)
    print(f"answers: {folder / 'evals'}")
    return 0
