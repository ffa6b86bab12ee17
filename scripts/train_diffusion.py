"""Align a text-to-image diffusion model by policy gradient on its denoising steps (DDPO).

    python scripts/train_diffusion.py                                # the embedded default on the drawings world
    python scripts/train_diffusion.py --config diffusion-dpo         # another method, by the name of its recipe
    python scripts/train_diffusion.py --config my.yaml --grpo.learning_rate 3e-5 --output_dir runs/mine

What happens: sampling with log-densities, a reward per picture, an update; then pictures of the start and of the
aligned policy read by two detectors, and one HTML report.  A killed run goes on with the same command.
"""

from __future__ import annotations

from mmalign.cli.errors import friendly
from mmalign.cli.outcome import show_outcome
from mmalign.cli.script import script_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    with friendly():
        cfg = script_config(__doc__, recipe="ddpo")
        show_outcome(run_recipe(cfg))
