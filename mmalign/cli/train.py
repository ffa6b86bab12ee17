"""``mmalign train STAGE``: one training stage alone."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, add_config_options, config_from

__all__ = ["TRAINING_STAGES", "main"]

TRAINING_STAGES = (
    "sft",
    "reward_model",
    "dpo",
    "kto",
    "ppo",
    "grpo",
    "pathwise",
    "personalise",
    "iterate",
    "offline_rl",
    "transfer",
)
"""Stages that train something."""


def main(argv: Sequence[str]) -> int:
    """Run one stage in the run folder, on what earlier stages left there."""
    parser = CommandParser(
        "train", "Run one training stage in --output_dir, on what earlier stages left there."
    )
    parser.add_argument("stage", choices=TRAINING_STAGES)
    add_config_options(parser)
    options, flags = parser.with_flags(argv)
    cfg = config_from(options.config, flags)
    if options.dry_run:
        from mmalign.pipeline.dry_run import dry_run

        dry_run(cfg.model_copy(update={"stages": (options.stage,)}))
        return 0
    from mmalign.pipeline.run import run_stage

    folder = run_stage(cfg, options.stage)
    print(f"done: {folder / 'stages' / options.stage}")
    return 0
