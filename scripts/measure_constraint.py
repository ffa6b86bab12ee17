"""The table of docs/objectives/constrained.md: reward and cost with the bound, without it, and with a shuffled cost.

python scripts/measure_constraint.py --stages ppo grpo --seeds 5 --output_dir runs/constraint
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmalign.config.load import load_config
from mmalign.pipeline.run import run_recipe
from mmalign.stats.intervals import Interval, t_interval

ARMS = {
    "no bound": ["--constraint.lambda_init", "1e-9", "--constraint.lambda_lr", "0"],
    "bound": [],
    "bound, cost shuffled": ["--constraint.shuffle_cost", "true"],
}
LAST = 20


def last_steps(folder: Path, stage: str) -> dict[str, float]:
    """Means over the last steps of a finished stage; shuffling keeps the mean cost, so it is the true one."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if record["stage"] == stage][-LAST:]
    return {
        name: sum(s[name] for s in steps) / len(steps) for name in ("cost/mean", "rewards/mean", "lambda")
    }


def main() -> None:
    """Run every arm and seed (finished runs are kept) and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", default=["ppo", "grpo"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/constraint"))
    options = parser.parse_args()
    print("| stage | arm | mean cost | mean reward | lambda |\n|---|---|---|---|---|")
    for stage in options.stages:
        for arm, flags in ARMS.items():
            found = []
            for seed in range(options.seeds):
                folder = options.output_dir / f"{stage}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
                own = ["--output_dir", str(folder), "--stages", f"[sft,{stage}]", "--seed", str(seed)]
                run_recipe(load_config("toy-safe", [*own, *flags]))
                found.append(last_steps(folder, stage))
            shown = [_shown(t_interval([f[name] for f in found])) for name in found[0]]
            print(f"| {stage} | {arm} | {' | '.join(shown)} |", flush=True)


def _shown(interval: Interval) -> str:
    if interval.ci_low is None or interval.ci_high is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} [{interval.ci_low:.2f}, {interval.ci_high:.2f}]"


if __name__ == "__main__":
    main()
