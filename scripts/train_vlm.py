"""Align a vision-language model with fine-grained AI feedback (FGAIF).

    python scripts/train_vlm.py                                   # the embedded default on the scenes world
    python scripts/train_vlm.py --config my.yaml                  # your model, your images
    python scripts/train_vlm.py --config my.yaml --ppo.kl_coef 0.05 --output_dir runs/mine

What happens: (optional) SFT, sampling and judging of answers, three reward models, PPO with a
critic on their dense reward, evaluation greedy and sampled, one HTML report.  A killed run goes on
with the same command.
"""

from __future__ import annotations

import sys

from mmalign.cli.errors import friendly
from mmalign.config.load import load_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    arguments = sys.argv[1:]
    recipe = "fgaif"
    if "--config" in arguments:
        place = arguments.index("--config")
        recipe = arguments[place + 1]
        arguments = arguments[:place] + arguments[place + 2 :]
    with friendly():
        run_dir = run_recipe(load_config(recipe, arguments))
        print(f"report: {run_dir / 'report.html'}")
