"""The FGAIF claim's statements on written-down numbers: which verdict each gives, and when it flips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmalign.benchmarks.claims.fgaif import CLAIM
from mmalign.benchmarks.claims.fgaif_statements import GREEDY, SAMPLED, TYPES
from mmalign.claims.plan import check_equal
from mmalign.claims.record import claim_record, must_hold
from mmalign.claims.results import Cell, Results, cell_folder

SEEDS = (0, 1, 2)
Change = Callable[[str, str, str], float | None]


def good(arm: str, mode: str, metric: str) -> float | None:
    """What a run in which the claim is true would measure."""
    better = arm in ("dense", "oracle", "sequence") or arm.startswith(("no_", "dense_", "sequence_"))
    start = 0.40 if mode == SAMPLED else 0.25
    if metric == "hallucination/overall":
        return start * (0.5 if better else 0.95 if arm in ("shuffled", "blanked") else 1.0)
    family, _, kind = metric.partition("/")
    if family == "hallucination":
        return (0.05 if better else 0.1) + (0.05 if arm == f"no_{kind}" else 0.0)
    values = {
        "hallucination_when_stated": 0.1 if better else 0.2,
        "coverage": 0.7,
        "fact_f1": 0.80 if arm == "oracle" else 0.75 if better else 0.65,
        "relation_sentences_per_caption": 2.0,
        "sentences_per_caption": 6.0,
    }
    return values[family]


def write(root: Path, change: Change) -> Results:
    """Result files of every arm, cell and mode, with a small difference from seed to seed."""
    families = ("hallucination", "hallucination_when_stated", "coverage")
    names = [f"{family}/{kind}" for family in families for kind in TYPES]
    names += [
        "hallucination/overall",
        "fact_f1/macro",
        "relation_sentences_per_caption",
        "sentences_per_caption",
    ]
    for arm in CLAIM.arms:
        for start in CLAIM.starts:
            for seed in SEEDS:
                folder = cell_folder(root, Cell(start, seed)) / arm.name
                shift = 0.0 if arm.kind in ("start", "baseline") else 0.001 * seed
                for mode in (GREEDY, SAMPLED, "scenes-captions@T0.7"):
                    metrics: dict[str, Any] = {}
                    for name in names:
                        value = change(arm.name, mode, name)
                        value = None if value is None else value + shift
                        metrics[name] = {"value": value, "ci_low": None, "ci_high": None}
                    out = folder / "evals" / ("ppo" if arm.kind == "train" else "sft") / mode
                    out.mkdir(parents=True)
                    (out / "results.json").write_text(
                        json.dumps({"schema": "mmalign.results/1", "metrics": metrics})
                    )
                    (out / "samples.jsonl").write_text(
                        json.dumps({"schema": "mmalign.sample/1", "id": "a"}) + "\n"
                    )
                _write_training(folder, arm.name)
    return Results(CLAIM, root, SEEDS)


def _write_training(folder: Path, arm: str) -> None:
    lines = [{"stage": "ppo", "step": step, "kl": 1.0} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ("padding", "between", "not_applicable", "sequence_place", "parts", "segments", "sequence")
    zero = dict.fromkeys(names, 0.0)
    identities = {**zero, "n_answers": 8, "n_not_applicable": 4, "kl": 1.0, "kl_reward": -0.02}
    (folder / "identities.json").write_text(json.dumps(identities))
    right = {"shared": 0.95, "noise_10": 0.93, "noise_30": 0.85}.get(arm, 0.95)
    seed = int(folder.parent.name[-1])
    quality = {kind: {"applicable": {"accuracy": right - 0.001 * seed, "majority": 0.7}} for kind in TYPES}
    (folder / "clean_quality.json").write_text(json.dumps(quality))
    (folder / "stages" / "reward_model").mkdir(parents=True)
    (folder / "stages" / "reward_model" / "quality.json").write_text(json.dumps(quality))


def verdicts(results: Results) -> dict[str, str]:
    record = claim_record(results, quick=False, command="", equal=())
    assert must_hold(record) == all(s["verdict"] == "holds" for s in record["statements"] if s["must_hold"])
    return {s["id"]: s["verdict"] for s in record["statements"]}


def test_a_run_in_which_the_claim_is_true_holds(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path, good))
    assert found.pop("T1") == "fails"  # equal means are no win for dense
    assert set(found.values()) == {"holds"}, found


CASES: list[tuple[str, str, Change]] = [
    ("H1", "fails", lambda a, m, n: 0.25 if (a, m, n) == ("dense", SAMPLED, "hallucination/overall") else good(a, m, n)),
    ("H2", "fails", lambda a, m, n: 0.2 if (a, m, n) == ("dense", GREEDY, "hallucination/overall") else good(a, m, n)),
    ("H3", "fails", lambda a, m, n: 0.64 if (a, n) == ("dense", "coverage/relation") else good(a, m, n)),
    ("H4", "fails", lambda a, m, n: 0.9 if (a, n) == ("dense", "relation_sentences_per_caption") else good(a, m, n)),
    ("H5", "fails", lambda a, m, n: 0.64 if (a, m, n) == ("dense", GREEDY, "fact_f1/macro") else good(a, m, n)),
    ("H6", "fails", lambda a, m, n: 0.7 if (a, n) == ("blanked", "fact_f1/macro") else good(a, m, n)),
    ("T5", "fails", lambda a, m, n: 0.3 if (a, n) == ("shuffled", "hallucination/overall") else good(a, m, n)),
    ("P1", "fails", lambda a, m, n: 0.3 if (a, n) == ("sft", "hallucination_when_stated/relation") else good(a, m, n)),
    ("H7", "fails",
     lambda a, m, n: 0.22 if (a, n) == ("dense", "hallucination_when_stated/attribute") else good(a, m, n)),
    # A policy that states no relation any more has no relation error rate: silence decides nothing.
    ("H7", "inconclusive",
     lambda a, m, n: None if (a, n) == ("dense", "hallucination_when_stated/relation") else good(a, m, n)),
    ("T1", "holds",
     lambda a, m, n: (good("sft", m, n) if a == "sequence" and n.startswith("hallucination/") else good(a, m, n))),
    ("T2r", "fails", lambda a, m, n: good("dense", m, n) if a == "no_relation" else good(a, m, n)),
    ("B2", "fails", lambda a, m, n: 0.8 if (a, n) == ("best_of_4", "fact_f1/macro") else good(a, m, n)),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "verdict", "change"), CASES)
def test_one_number_flips_one_statement(tmp_path: Path, statement: str, verdict: str, change: Change) -> None:
    found = verdicts(write(tmp_path, change))
    assert found[statement] == verdict
    others = {k: v for k, v in found.items() if k not in (statement, "T1") and v != "holds"}
    assert not others


def test_a_wrong_kl_sign_fails_the_identities(tmp_path: Path) -> None:
    results = write(tmp_path, good)
    file = results.folder("dense", Cell("base0", 1)) / "identities.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "kl_reward": 0.02}))
    assert verdicts(results)["T4"] == "fails"


def test_an_arm_with_fewer_steps_fails_equal_work(tmp_path: Path) -> None:
    results = write(tmp_path, good)
    (results.folder("oracle", Cell("base0", 1)) / "metrics.jsonl").write_text(
        '{"stage": "ppo", "step": 1, "kl": 1.0}\n'
    )
    assert verdicts(results)["E1"] == "fails"


@pytest.mark.parametrize("quick", [False, True])
def test_the_shipped_recipe_holds_its_arms_equal(quick: bool) -> None:
    keys = check_equal(CLAIM, quick=quick)
    assert {"ppo.max_steps", "ppo.kl_coef", "ppo.rollout_batch_size", "evaluate.split", "seed"} <= set(keys)
    assert "reward.placement" not in keys
