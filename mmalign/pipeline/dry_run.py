"""``--dry-run``: check everything, take one real step of every stage on two rows, keep nothing."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.pipeline.context import POLICY_STAGES
from mmalign.pipeline.run import open_run, run_one

if TYPE_CHECKING:
    from mmalign.config.schema import PPOConfig, RunConfig, TransferConfig, TransitionsConfig

__all__ = ["StageEstimate", "dry_run", "estimate_table", "shrunk"]

_ROWS = 2
_TRAINING = ("sft", "feedback", "reward_model", *POLICY_STAGES, "transfer")


@dataclass(frozen=True)
class StageEstimate:
    """One stage's small step, scaled up: seconds for the whole stage are an estimate from two rows."""

    stage: str
    seconds: float
    answers: int
    planned: int

    @property
    def total(self) -> float:
        """Seconds the stage will take if every answer costs what it did here."""
        return self.seconds / self.answers * self.planned


def dry_run(cfg: RunConfig) -> None:
    """Validate, load two rows, run one real step of each training stage and print what it cost.

    Everything is written to a temporary folder that is removed, so nothing is left behind.

    Raises:
        UserError: whatever the real run would stop with.
    """
    small = shrunk(cfg)
    if len(cfg.stages) == 1 and cfg.reuse_from is None:  # a stage alone builds on what its run folder has
        small = small.model_copy(update={"reuse_from": cfg.output_dir})
    estimates = []
    with tempfile.TemporaryDirectory() as folder:
        ctx = open_run(small.model_copy(update={"output_dir": str(Path(folder) / "run")}))
        for stage in (s for s in cfg.stages if s in _TRAINING):
            began = time.perf_counter()
            run_one(ctx, stage)
            seconds = _step_seconds(ctx.run_dir, stage) or time.perf_counter() - began
            facts = json.loads((ctx.home(stage) / "stages" / stage / "done.json").read_text(encoding="utf-8"))
            if not facts.get("skipped"):
                estimates.append(StageEstimate(stage, seconds, _answers(small, stage), _answers(cfg, stage)))
    print(estimate_table(estimates))


def shrunk(cfg: RunConfig) -> RunConfig:
    """The same configuration with two rows and one step everywhere."""
    few_answers = 6 if cfg.feedback.n_samples > 1 else 1  # enough that not all are worth the same
    few = {"per_device_train_batch_size": _ROWS, "save_steps": 1}
    return cfg.model_copy(
        update={
            "data": cfg.data.model_copy(update={"n_train": _ROWS, "n_validation": _ROWS, "max_rows": _ROWS}),
            "sft": cfg.sft.model_copy(update={**few, "max_steps": min(1, cfg.sft.max_steps)}),
            "feedback": cfg.feedback.model_copy(
                update={"n_prompts": _ROWS, "n_heldout": _ROWS, "n_samples": few_answers}
            ),
            "reward_model": cfg.reward_model.model_copy(update={**few, "max_steps": 1}),
            "dpo": cfg.dpo.model_copy(update={**few, "max_steps": 1, "n_pairs": _ROWS, "n_heldout": _ROWS}),
            "kto": cfg.kto.model_copy(update={**few, "max_steps": 1, "n_pairs": _ROWS, "n_heldout": _ROWS}),
            "ppo": _one_step(cfg.ppo),
            "grpo": _one_step(cfg.grpo),
            "offline_rl": _few_transitions(cfg.offline_rl),
            "pathwise": cfg.pathwise.model_copy(update={**few, "max_steps": 1, "rollout_batch_size": _ROWS}),
            "personalise": cfg.personalise.model_copy(
                update={**few, "max_steps": 1, "n_prior": min(_ROWS, cfg.personalise.n_prior)}
            ),
            "iterate": cfg.iterate.model_copy(
                update={
                    **few,
                    "iterations": 1,
                    "updates": 1,
                    "prompts": _ROWS,
                    "batch_size": _ROWS,
                    "n_heldout": _ROWS,
                }
            ),
            "transfer": _one_task(cfg) if "transfer" in cfg.stages else cfg.transfer,
            "guard": cfg.guard.model_copy(update={"n_rows": _ROWS}),
            "report_to": (),
        }
    )


def estimate_table(estimates: list[StageEstimate]) -> str:
    """The estimates and the peak memory as text."""
    lines = ["stage          step on 2 rows   estimate for the run"]
    for item in estimates:
        lines.append(f"{item.stage:<14} {item.seconds:>10.1f} s   {item.total:>12.0f} s")
    lines.append(f"peak memory {_peak_bytes() / 2**20:,.0f} MiB; nothing was written")
    return "\n".join(lines)


def _one_step(cfg: PPOConfig) -> PPOConfig:
    return cfg.model_copy(
        update={
            "max_steps": 1,
            "rollout_batch_size": _ROWS,
            "per_device_train_batch_size": _ROWS,
            "critic_warmup_steps": 0,
        }
    )


def _few_transitions(cfg: TransitionsConfig) -> TransitionsConfig:
    online = min(1, cfg.online_steps)
    small = {
        "offline_steps": 1 - online,
        "online_steps": online,
        "updates": 1,
        "n_offline": _ROWS,
        "save_steps": 1,
    }
    return cfg.model_copy(update={**small, "warmup_episodes": 0, "batch_size": 2 * _ROWS})


def _one_task(cfg: RunConfig) -> TransferConfig:
    """The first task, once over its pictures, nothing chosen."""
    from mmalign.pipeline.stages.transfer import chosen_tasks, open_suite

    first = chosen_tasks(open_suite(cfg.transfer), cfg.transfer)[0].name
    small = {"tasks": (first,), "epochs": 1, "learning_rates": cfg.transfer.learning_rates[:1]}
    return cfg.transfer.model_copy(update={**small, "selection_dir": None, "save_models": False})


def _passes(cfg: TransferConfig) -> int:
    """Passes over training pictures: every task once per rate that is tried, and once more."""
    from mmalign.pipeline.stages.transfer import chosen_tasks, open_suite

    tried = len(cfg.learning_rates) if len(cfg.learning_rates) > 1 else 0
    return len(chosen_tasks(open_suite(cfg), cfg)) * cfg.epochs * (tried + 1)


def _answers(cfg: RunConfig, stage: str) -> int:
    """How many answers the stage handles: what its cost is proportional to."""
    if stage == "feedback":
        return (cfg.feedback.n_prompts + cfg.feedback.n_heldout) * cfg.feedback.n_samples
    if stage == "sft":
        return cfg.sft.max_steps * cfg.sft.per_device_train_batch_size
    if stage in ("reward_model", "dpo", "kto", "personalise"):
        section = getattr(cfg, stage)
        return int(section.max_steps * section.per_device_train_batch_size)
    if stage == "offline_rl":
        return cfg.offline_rl.max_steps * cfg.offline_rl.updates * cfg.offline_rl.batch_size
    if stage == "transfer":
        return _passes(cfg.transfer)
    if stage == "pathwise":
        return cfg.pathwise.max_steps * cfg.pathwise.rollout_batch_size
    if stage == "iterate":
        loop = cfg.iterate
        drawn = loop.iterations * loop.prompts * loop.num_generations
        return loop.max_steps * loop.batch_size + drawn
    online = cfg.ppo if stage == "ppo" else cfg.grpo
    return online.max_steps * online.rollout_batch_size * online.num_generations


def _step_seconds(run_dir: Path, stage: str) -> float | None:
    """Seconds of the stage's one step, without loading; none for a stage that has no steps."""
    file = run_dir / "timing.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return next((float(record["seconds"]) for record in records if record["stage"] == stage), None)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
