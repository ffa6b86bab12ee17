"""Align a text-to-music model with MusicRL: adherence and quality (R), users' choices (U), or both (RU).

    python scripts/train_music.py                                   # R, on the embedded default and the tunes world
    python scripts/train_music.py --config musicrl-ru               # U beside R
    python scripts/train_music.py --config my.yaml --grpo.kl_coef 0.02 --output_dir runs/mine

What happens: pieces are drawn as tuples of codes in the delay pattern, rewarded as a whole, and the policy gradient
with a KL to the start follows the reward; start and aligned policy are evaluated, and one HTML report lets both be
heard.  A killed run goes on with the same command.
"""

from __future__ import annotations

from mmalign.cli.errors import friendly
from mmalign.cli.outcome import show_outcome
from mmalign.cli.script import script_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    with friendly():
        cfg = script_config(__doc__, recipe="musicrl")
        show_outcome(run_recipe(cfg))
