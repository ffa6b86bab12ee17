"""Align a vision-language model with fine-grained AI feedback (FGAIF).

    python scripts/train_vlm.py                                   # the embedded default on the scenes world
    python scripts/train_vlm.py --config my.yaml                  # your model, your images
    python scripts/train_vlm.py --config my.yaml --ppo.kl_coef 0.05 --output_dir runs/mine

What happens: (optional) SFT, sampling and judging of answers, three reward models, PPO with a
critic on their dense reward, evaluation greedy and sampled, one HTML report.  A killed run goes on
with the same command.
"""

from __future__ import annotations

from mmalign.cli.errors import friendly
from mmalign.cli.outcome import show_outcome
from mmalign.cli.script import script_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    with friendly():
        cfg = script_config(__doc__, recipe="fgaif")
        show_outcome(run_recipe(cfg))
