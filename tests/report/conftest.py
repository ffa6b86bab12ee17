"""A synthetic run folder.  Nothing in it was trained: captions come from the scenes grammar with more or
less noise, curves from formulas.  ``python tests/report/conftest.py FOLDER`` writes one to look at."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmalign.benchmarks.tasks.scenes import ScenesCaptions, scenes_pope_adversarial
from mmalign.evals import score_outputs
from mmalign.types import Row
from mmalign.worlds import scenes

TYPES = ("object", "attribute", "relation")


class Camera:
    """Shows a row's picture, as a modality would."""

    def show(self, row: Row) -> Mapping[str, Any]:
        """The picture as PNG bytes, four times as large as the model sees it."""
        images = []
        for picture in row.media:
            buffer = io.BytesIO()
            picture.resize((256, 256)).save(buffer, "PNG")
            images.append(buffer.getvalue())
        return {"images": images}


def captions(rows: list[Row], wrong: float, seed: int) -> dict[str, str]:
    """Captions in which a share of the sentences is swapped for one about another scene."""
    rng = np.random.default_rng(seed)
    answers = {}
    for number, row in enumerate(rows):
        own = scenes.caption(scenes.Scene.from_dict(row.meta["scene"]), rng, None)
        other = scenes.caption(scenes.Scene.from_dict(rows[number - 1].meta["scene"]), rng, None)
        pair = zip(scenes.parse(own), scenes.parse(other) * 9, strict=False)
        answers[row.id] = " ".join((b if rng.random() < wrong else a).text for a, b in pair)
    return answers


def write_evaluations(folder: Path, n: int) -> None:
    """Two arms, captions greedy and sampled, and polling questions."""
    task = ScenesCaptions(n=n)
    rows = task.rows()
    for arm, scale in (("sft", 1.0), ("ppo", 0.45)):
        for setting, wrong, seed in (("greedy", 0.42, 1), ("T1", 0.6, 2)):
            answers = captions(rows, wrong * scale, seed)
            target = folder / "evals" / arm / f"scenes-captions@{setting}"
            if setting == "greedy":
                first = rows[0].id
                answers[first] += " <script>alert(1)</script> red red circle ."
            score_outputs(task, answers, target, model_info={"id": arm}, adapter=Camera())
        polling = scenes_pope_adversarial(n=n)
        rng = np.random.default_rng(5)
        said = {
            row.id: (row.meta["label"] if rng.random() > 0.3 * scale else "yes") + " ."
            for row in polling.rows()
        }
        target = folder / "evals" / arm / "scenes-pope-adversarial@greedy"
        score_outputs(polling, said, target, model_info={"id": arm})


def write_metrics(folder: Path, steps: int = 60) -> None:
    """Curves of three stages."""
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        loss = 0.7 * math.exp(-step / 20) + 0.25
        lines.append(
            {"stage": "reward_model", "step": step, "loss": loss + rng.normal(0, 0.03), "accuracy": 1 - loss}
        )
    for step in range(1, steps + 1):
        fade = math.exp(-step / 15)
        part = {kind: 0.9 - (0.5 + 0.1 * k) * fade + rng.normal(0, 0.04) for k, kind in enumerate(TYPES)}
        lines.append({
            "stage": "ppo",
            "step": step,
            "rewards/mean": sum(part.values()),
            **{f"rewards/{kind}": value for kind, value in part.items()},
            "kl": 6 * (1 - math.exp(-step / 25)) + rng.normal(0, 0.2),
            "entropy": 0.9 * math.exp(-step / 60) + rng.normal(0, 0.02),
            "completion_length": 44 + 4 * math.sin(step / 9) + rng.normal(0, 1),
            "loss": 0.3 * math.exp(-step / 30) + rng.normal(0, 0.02),
            "policy_loss": -0.02 + rng.normal(0, 0.01),
            "value_loss": 0.4 * math.exp(-step / 12),
            "clip_ratio": 0.08 + rng.normal(0, 0.01),
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_quality(folder: Path) -> None:
    """Reward-model quality, label counts, a claim, configuration and environment."""
    entry = {
        "n": 410,
        "accuracy": 0.83,
        "ci_low": 0.79,
        "ci_high": 0.86,
        "majority": 0.71,
        "auc": 0.9,
        "ece": 0.04,
    }
    views = {"all": entry, "applicable": {**entry, "n": 260}}
    arm = {"hallucination/overall": {"mean": 0.24, "ci_low": 0.2, "ci_high": 0.28, "per_seed": [0.2, 0.28]}}
    statement = {"value": 0.47, "ci_low": 0.41, "ci_high": 0.53, "must_hold": True}
    labels = {
        kind: {"false": 120 + 40 * k, "none": 300, "true": 700, "unlabelled": 0}
        for k, kind in enumerate(TYPES)
    }
    files = {
        "stages/reward_model/quality.json": dict.fromkeys(TYPES, views),
        "stages/reward_model/done.json": {"rows": 900},
        "stages/ppo/done.json": {"steps": 60},
        "feedback/counts.json": {"train": labels, "heldout": labels},
        "config.json": {"stages": ["sft", "feedback", "reward_model", "ppo", "evaluate", "report"]},
        "env.json": {
            "command": "mmalign run fgaif --output_dir runs/synthetic",
            "python": "3.11.9",
            "packages": {"mmalign": "0.1.0", "torch": "2.14.1"},
            "device": "cpu, 2 cores",
        },
        "claim.json": {
            "claim": "synthetic fixture, not a result",
            "statements": [
                {
                    "id": "T1",
                    "text": "Sampled hallucination falls by at least 40 %",
                    "verdict": "holds",
                    **statement,
                },
                {
                    "id": "T2",
                    "text": "Dense beats the same reward at the end",
                    "verdict": "does not hold",
                    **statement,
                },
            ],
            "arms": {"sft": arm, "dense": arm, "shuffled labels": arm},
            "seeds": [0, 1, 2, 3, 4],
        },
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "config.yaml").write_text("recipe: fgaif\nmodality: vision\nseed: 0\nppo:\n  kl_coef: 0.03\n")


def make_run(folder: Path, n: int = 16) -> Path:
    """Write the whole synthetic run and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluations(folder, n)
    write_metrics(folder)
    write_quality(folder)
    return folder


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder made once per session; tests that change it must copy it."""
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic-fixture")


if __name__ == "__main__":
    make_run(Path(sys.argv[1]), n=300)
