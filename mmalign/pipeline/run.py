"""Running a recipe: stage after stage, each skipped once done, all resumable by the same command."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.config.load import config_dict
from mmalign.engine.atomic import write_json, write_text
from mmalign.errors import UserError, nearest
from mmalign.pipeline.context import RunContext

if TYPE_CHECKING:
    from mmalign.config.schema import RunConfig

__all__ = ["STAGES", "open_run", "run_one", "run_recipe", "run_stage"]

STAGES = {
    "sft": "mmalign.pipeline.stages.sft:run",
    "feedback": "mmalign.pipeline.stages.feedback:run",
    "reward_model": "mmalign.pipeline.stages.reward_model:run",
    "dpo": "mmalign.pipeline.stages.preference:run_dpo",
    "kto": "mmalign.pipeline.stages.preference:run_kto",
    "ppo": "mmalign.pipeline.stages.policy:run_ppo",
    "grpo": "mmalign.pipeline.stages.policy:run_grpo",
    "pathwise": "mmalign.pipeline.stages.pathwise:run",
    "personalise": "mmalign.pipeline.stages.personalise:run",
    "iterate": "mmalign.pipeline.stages.iterate:run",
    "offline_rl": "mmalign.pipeline.stages.transitions:run",
    "transfer": "mmalign.pipeline.stages.transfer:run",
    "evaluate": "mmalign.pipeline.stages.evaluate:run",
    "report": "mmalign.pipeline.stages.report:run",
}
"""Stage name to the function that runs it, imported when it runs."""

_PACKAGES = ("mmalign", "torch", "transformers", "peft", "accelerate", "numpy")


def run_recipe(cfg: RunConfig) -> Path:
    """Run all stages of the recipe and return the run folder; finished stages are skipped.

    Raises:
        UserError: for an unknown stage, or a folder that holds another configuration.
    """
    ctx = open_run(cfg)
    for stage in cfg.stages:
        run_one(ctx, stage)
    return ctx.run_dir


def run_stage(cfg: RunConfig, stage: str) -> Path:
    """Run one stage alone in the run folder, on what earlier stages left there."""
    ctx = open_run(cfg)
    run_one(ctx, stage)
    return ctx.run_dir


def open_run(cfg: RunConfig) -> RunContext:
    """Create or reopen the run folder; ``config.yaml`` and ``env.json`` are written first.

    Raises:
        UserError: when the folder holds a run with another configuration, or the configuration names a stage,
            modality, world, start model or reader that there is not (nothing is written then).
    """
    unknown = [stage for stage in cfg.stages if stage not in STAGES]
    if unknown:
        raise UserError(
            f"stages: unknown stage {unknown[0]!r}{nearest(unknown[0], STAGES)}; known: {', '.join(STAGES)}"
        )
    ctx = RunContext(cfg, Path(cfg.output_dir))
    _refuse_unknown(ctx)
    if not ctx.accelerator.is_main_process:
        return ctx
    wanted = config_dict(cfg)
    file = ctx.run_dir / "config.json"
    if file.is_file():
        _refuse_other(ctx.run_dir, json.loads(file.read_text(encoding="utf-8")), wanted)
    else:
        from mmalign.config.load import dump_config

        write_text(ctx.run_dir / "config.yaml", dump_config(cfg))
        write_json(file, wanted)
    if not (ctx.run_dir / "env.json").is_file():
        write_json(ctx.run_dir / "env.json", _environment())
    return ctx


def _refuse_unknown(ctx: RunContext) -> None:
    """Look up what the configuration names before anything is written, not hours later in the stage that needs it."""
    ahead = [stage for stage in ctx.cfg.stages if not ctx.is_done(stage)]
    if ahead:
        _ = ctx.adapter
        ctx.base_model()
    if "reward_model" in ahead:
        ctx.reward_model_source()


def run_one(ctx: RunContext, stage: str) -> None:
    """Run one stage of an open run, unless it is done.

    Raises:
        UserError: for an unknown stage.
    """
    if ctx.is_done(stage):
        return
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}{nearest(stage, STAGES)}; known: {', '.join(STAGES)}")
    module, _, name = STAGES[stage].partition(":")
    function: Callable[[RunContext], None] = getattr(importlib.import_module(module), name)
    _same_start(ctx.cfg.seed, stage)
    function(ctx)


def _same_start(seed: int, stage: str) -> None:
    """Seed torch's own generator by the stage, so that new layers do not depend on what ran before in this process."""
    import torch

    from mmalign.rng import derive_seed

    torch.manual_seed(derive_seed(seed, stage, "start"))


def _refuse_other(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A run folder belongs to one configuration; ``stages`` and ``report_to`` may differ."""
    free = {"stages", "report_to", "output_dir", "report", "reuse_from"}
    old, new = (_flat({k: v for k, v in c.items() if k not in free}) for c in (saved, wanted))
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise UserError(
                f"{folder}: holds a run with {key} = {old.get(key)!r}, now {new.get(key)!r}; "
                "give another --output_dir or go back to the first configuration"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _environment() -> dict[str, Any]:
    import torch

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "command": _command(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "packages": packages,
    }


def _command(argv: Sequence[str]) -> str:
    """What was typed, as it can be typed again: a command, a script or ``python -m mmalign``."""
    program = Path(argv[0])
    if program.name == "__main__.py":
        said = ["python", "-m", program.parent.name]
    elif program.suffix == ".py":
        said = ["python", program.name if program.is_absolute() else str(program)]
    else:
        said = [program.name]
    return shlex.join([*said, *argv[1:]])
