"""Clone experts on the sweep world and improve the clone by PPO, GRPO or compared segments.

    python scripts/train_robot.py                                  # BC, then PPO (recipe robot-ppo)
    python scripts/train_robot.py --config bc --model.options.observe=pixels
    python scripts/train_robot.py --config diffusion-policy-dpo
    python scripts/train_robot.py --model.options.environment=gymnasium:Pendulum-v1 --data.world seeds --sft.max_steps 0

What happens: recordings of scripted experts are cloned, the clone acts and is paid by the environment, success is
measured before and after, and one HTML report shows episodes as clips.  Every other flag is one of the recipe's keys
(docs/config.md); a killed run goes on with the same command.
"""

from __future__ import annotations

from mmalign.cli.errors import friendly
from mmalign.cli.outcome import show_outcome
from mmalign.cli.script import script_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    with friendly():
        cfg = script_config(__doc__, recipe="robot-ppo")
        show_outcome(run_recipe(cfg))
