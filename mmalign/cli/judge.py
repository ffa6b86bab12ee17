"""``mmalign judge``: sample answers and have every segment labelled."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, add_config_options, config_from

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the feedback stage; answers already judged are kept."""
    parser = CommandParser(
        "judge", "Collect feedback: answers of the start policy, labelled segment by segment."
    )
    add_config_options(parser)
    options, flags = parser.with_flags(argv)
    cfg = config_from(options.config, flags)
    if options.dry_run:
        from mmalign.pipeline.dry_run import dry_run

        dry_run(cfg.model_copy(update={"stages": ("feedback",)}))
        return 0
    from mmalign.pipeline.run import run_stage

    folder = run_stage(cfg, "feedback")
    print(f"feedback: {folder / 'feedback'}")
    return 0
