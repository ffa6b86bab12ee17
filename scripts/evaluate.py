"""Evaluate a model, or every policy of a run, on bundled benchmarks (``mmalign list tasks`` names them).

    python scripts/evaluate.py --config runs/mine                  # the start and the trained policies of a run
    python scripts/evaluate.py --model.model_name_or_path PATH --evaluate.tasks '[scenes-captions]' --output_dir OUT
    python scripts/evaluate.py --config robot-ppo --output_dir OUT          # an embedded start, on its own world

What happens: each policy answers the tasks' test prompts at every temperature, the answers are scored and kept, and a
table with intervals and one HTML report are made of them.  A killed evaluation goes on with the same command.
"""

from __future__ import annotations

from mmalign.cli.errors import friendly
from mmalign.cli.outcome import show_outcome
from mmalign.cli.script import script_config
from mmalign.pipeline.run import run_recipe

if __name__ == "__main__":
    with friendly():
        cfg = script_config(__doc__, recipe="fgaif").model_copy(update={"stages": ("evaluate", "report")})
        show_outcome(run_recipe(cfg), every_task=True)
