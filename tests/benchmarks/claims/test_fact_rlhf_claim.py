"""The statements of the claim fact-rlhf on written-down numbers: which verdict each gives, and when it flips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmalign.benchmarks.claims.fact_rlhf import CLAIM
from mmalign.benchmarks.claims.fact_rlhf_statements import GREEDY, SAMPLED, TYPES
from mmalign.claims.plan import check_equal
from mmalign.claims.record import claim_record
from mmalign.claims.results import Cell, Results, cell_folder

SEEDS = (0, 1, 2)
STEPS = 8
Change = Callable[[str, str], float]


def good(arm: str, name: str) -> float:
    """What a run in which the claim is true would measure; ``score`` and ``wrong`` are the change over training."""
    told = arm in ("full", "no_bonus", "no_length")
    error = {
        "sft": 0.4,
        "full": 0.2,
        "no_length": 0.2,
        "no_bonus": 0.24,
        "no_facts": 0.34,
        "other_facts": 0.35,
    }
    if name == "hallucination/overall":
        return error.get(arm, 0.39)
    values = {
        "hallucination/object": {"full": 0.02, "sft": 0.1}.get(arm, 0.06),
        "fact_f1/macro": 0.7 if told else 0.6,
        "tokens_per_caption": 60.0 if arm == "no_length" else 50.0,
        "score": 1.0,
        "wrong": -0.1 if told else -0.01,
        "accuracy": {"rm_facts": 0.75, "rm_none": 0.65, "rm_other": 0.66, "rm_shuffled": 0.5}.get(arm, 0.0),
        "swapped": 0.6,
    }
    return values[name] if name in values else 0.7


def write(root: Path, change: Change) -> Results:
    """Result files of every arm and seed, with a small difference from seed to seed."""
    names = ["hallucination/overall", "hallucination/object", "fact_f1/macro", "tokens_per_caption"]
    names += [f"coverage/{kind}" for kind in TYPES]
    for arm in CLAIM.arms:
        for seed in SEEDS:
            folder = cell_folder(root, Cell("base0", seed)) / arm.name
            shift = 0.0 if arm.kind == "start" else 0.001 * seed
            folder.mkdir(parents=True)
            if arm.kind in ("start", "train"):
                for mode in (GREEDY, SAMPLED):
                    out = folder / "evals" / ("ppo" if arm.kind == "train" else "sft") / mode
                    out.mkdir(parents=True)
                    metrics = {name: {"value": change(arm.name, name) + shift} for name in names}
                    (out / "results.json").write_text(
                        json.dumps({"schema": "mmalign.results/1", "metrics": metrics})
                    )
                    (out / "samples.jsonl").write_text('{"schema": "mmalign.sample/1", "id": "a"}\n')
            if arm.kind == "train":
                _write_curves(folder, change, arm.name, shift)
            if "reward_model" in arm.stages:
                own = {"accuracy": change(arm.name, "accuracy") + shift, "longer": 0.7}
                quality = {
                    "preference": own,
                    "other_facts": {"accuracy": change(arm.name, "swapped") - shift},
                }
                (folder / "stages" / "reward_model").mkdir(parents=True)
                (folder / "stages" / "reward_model" / "quality.json").write_text(json.dumps(quality))
    return Results(CLAIM, root, SEEDS)


def _write_curves(folder: Path, change: Change, arm: str, shift: float) -> None:
    """The score rises evenly; the share of wrong facts follows it exactly, or wavers where it hardly moves."""
    lines = []
    for step in range(STEPS):
        at = step / (STEPS - 1)
        waver = 0.02 * (step % 2) if abs(change(arm, "wrong")) < 0.05 else 0.0
        lines.append({
            "stage": "ppo", "step": step + 1, "kl": 1.0, "rewards/score": (change(arm, "score") + shift) * at,
            "truth/wrong": 0.2 + (change(arm, "wrong") - shift) * at + waver,
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def verdicts(results: Results) -> dict[str, str]:
    record = claim_record(results, quick=False, command="", equal=())
    return {s["id"]: s["verdict"] for s in record["statements"]}


def test_a_run_in_which_the_claim_is_true_holds(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path, good))
    assert set(found.values()) == {"holds"}, found


CASES: list[tuple[str, str, str, float, str]] = [
    ("A1", "rm_facts", "accuracy", 0.64, "fails"),
    ("C1", "rm_other", "accuracy", 0.70, "fails"),
    ("C2", "rm_facts", "swapped", 0.80, "fails"),
    ("B1", "no_bonus", "wrong", 0.05, "fails"),
    ("B2", "plain", "wrong", -0.09, "fails"),
    ("H1", "full", "hallucination/overall", 0.35, "fails"),
    ("H2", "full", "coverage/attribute", 0.6, "fails"),
    ("S1", "shuffled", "hallucination/overall", 0.3, "fails"),
    ("D1", "no_facts", "hallucination/overall", 0.19, "fails"),
    ("D2", "no_bonus", "hallucination/object", 0.01, "fails"),
    ("D3", "no_length", "tokens_per_caption", 45.0, "fails"),
    ("D4", "other_facts", "hallucination/overall", 0.19, "fails"),
    ("D5", "plain", "hallucination/overall", 0.2, "fails"),
    ("F1", "full", "fact_f1/macro", 0.55, "fails"),
]


@pytest.mark.parametrize(("statement", "arm", "name", "value", "verdict"), CASES)
def test_one_number_flips_its_statement(
    tmp_path: Path, statement: str, arm: str, name: str, value: float, verdict: str
) -> None:
    changed = write(tmp_path, lambda a, n: value if (a, n) == (arm, name) else good(a, n))
    assert verdicts(changed)[statement] == verdict


def test_an_arm_with_fewer_steps_fails_equal_work(tmp_path: Path) -> None:
    results = write(tmp_path, good)
    file = results.folder("plain", Cell("base0", 1)) / "metrics.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    assert verdicts(results)["E1"] == "fails"


@pytest.mark.parametrize("quick", [False, True])
def test_the_shipped_recipe_holds_its_arms_equal(quick: bool) -> None:
    keys = check_equal(CLAIM, quick=quick)
    assert {"ppo.max_steps", "ppo.kl_coef", "ppo.rollout_batch_size", "reward.unfinished_penalty"} <= set(
        keys
    )
    assert "reward.correct_bonus" not in keys and CLAIM.seeds == 3
