"""Clone experts on the sweep world and improve the clone by PPO, GRPO or compared segments.

    python scripts/train_robot.py                                  # BC, then PPO (recipe robot-ppo)
    python scripts/train_robot.py --recipe bc --model.options.observe=pixels
    python scripts/train_robot.py --recipe diffusion-policy-dpo
    python scripts/train_robot.py --model.options.environment=gymnasium:Pendulum-v1 --data.world seeds --sft.max_steps 0

Every flag after ``--recipe`` is one of the recipe's keys (docs/config.md); the same command resumes.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from mmalign.config.load import load_config
from mmalign.pipeline.run import run_recipe
from mmalign.report.headline import headline_table


def main() -> int:
    """Run the recipe and print its headline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe", default="robot-ppo", help="bc, robot-ppo, diffusion-policy-dpo, demo-robot"
    )
    options, flags = parser.parse_known_args()
    folder = run_recipe(load_config(options.recipe, flags))
    Console().print(headline_table(folder))
    print(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
