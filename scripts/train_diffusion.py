"""Align a text-to-image diffusion model by policy gradient on its denoising steps (DDPO).

    python scripts/train_diffusion.py                                # the embedded default on the drawings world
    python scripts/train_diffusion.py --config diffusion-dpo         # another method, by the name of its recipe
    python scripts/train_diffusion.py --config my.yaml --grpo.learning_rate 3e-5 --output_dir runs/mine

What happens: sampling with log-densities, a reward per picture, an update; then pictures of the start and of the
aligned policy read by two detectors, and one HTML report.  A killed run goes on with the same command.
"""

from __future__ import annotations

import sys

from mmalign.cli.errors import friendly
from mmalign.config.load import load_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    arguments = sys.argv[1:]
    recipe = "ddpo"
    if "--config" in arguments:
        place = arguments.index("--config")
        recipe = arguments[place + 1]
        arguments = arguments[:place] + arguments[place + 2 :]
    with friendly():
        run_dir = run_recipe(load_config(recipe, arguments))
        print(f"report: {run_dir / 'report.html'}")
