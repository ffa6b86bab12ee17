"""The claims rapl, robofume and vpl: arms held equal, and statements that can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmalign.benchmarks.claims.rapl import CLAIM as RAPL
from mmalign.benchmarks.claims.robofume import CLAIM as ROBOFUME
from mmalign.benchmarks.claims.vpl import CLAIM as VPL
from mmalign.claims.definition import Claim
from mmalign.claims.plan import check_equal
from mmalign.claims.results import Cell, Results, cell_folder

SEEDS = (0, 1, 2)


def successes(policy: str, share: float) -> dict[str, Any]:
    """The files of an evaluation with one sample and one figure."""
    folder = f"evals/{policy}/sweep@T1"
    return {
        f"{folder}/results.json": {"metrics": {"success": {"value": share}}},
        f"{folder}/samples.jsonl": {"schema": "mmalign.sample/1", "id": "a", "index": 0},
    }


def results(
    root: Path, claim: Claim, files: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Any]
) -> Results:
    """Arms' files and training metrics; a number ``x`` becomes ``x + 0.001 * seed``."""
    for seed in SEEDS:
        for name in {*files, *curves}:
            folder = cell_folder(root, Cell("base", seed)) / name
            for file, content in files.get(name, {}).items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                varied = {k: v + 0.001 * seed if isinstance(v, float) else v for k, v in content.items()}
                (folder / file).write_text(json.dumps(varied))
            folder.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"stage": "offline_rl", **record}) for record in curves.get(name, ())]
            (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Results(claim, root, SEEDS)


def verdict(claim: Claim, ident: str, found: Results) -> str:
    return next(s for s in claim.statements if s.id == ident).check(found).verdict


@pytest.mark.parametrize("claim", [RAPL, ROBOFUME, VPL], ids=lambda claim: claim.name)
@pytest.mark.parametrize("quick", [True, False])
def test_arms_are_held_equal(claim: Claim, quick: bool) -> None:
    keys = check_equal(claim, quick=quick)
    assert "reward_model.max_steps" in keys
    assert ("ppo.kl_target" if claim is RAPL else "offline_rl.updates") in keys


QUALITY = "stages/reward_model/quality.json"


@pytest.mark.parametrize(("plain", "wanted"), [(0.4, "holds"), (0.9, "fails")])
def test_rapl_ranks_better_or_it_does_not(tmp_path: Path, plain: float, wanted: str) -> None:
    files = {
        "rapl": {QUALITY: {"spearman": 0.8, "pixels/spearman": 0.2}},
        "score": {QUALITY: {"spearman": plain}},
        "shuffled": {QUALITY: {"spearman": plain}},
    }
    found = results(tmp_path, RAPL, files, {})
    assert verdict(RAPL, "R1", found) == wanted
    assert verdict(RAPL, "R3", found) == "holds"
    assert verdict(RAPL, "R4", found) == ("fails" if plain >= 0.4 else "holds")


@pytest.mark.parametrize(("success", "wanted"), [(0.4, "holds"), (0.1, "fails")])
def test_rapl_serves_a_policy_as_well_as_five_times_the_labels_or_it_does_not(
    tmp_path: Path, success: float, wanted: str
) -> None:
    shares = {"rapl": success, "score": 0.15, "score5": 0.2, "shuffled": 0.12}
    files = {name: successes("ppo", share) for name, share in shares.items()}
    files["start"] = successes("sft", 0.11)
    found = results(tmp_path, RAPL, files, {})
    assert [verdict(RAPL, s, found) for s in ("P1", "P2", "P3", "P4")] == [wanted] * 4


def claims_of(claimed: float, false: float) -> list[dict[str, float]]:
    return [
        {"step": k, "collect/claimed": claimed, "collect/false_claim": false, "collect/true": claimed - false,
         "collect/resets": 1 + k // 2}
        for k in range(4)
    ]  # fmt: skip


def test_robofume_audits_where_the_policy_goes_and_counts_resets(tmp_path: Path) -> None:
    config = {"config.json": {"offline_rl": {"episodes": 10, "online_steps": 4, "reset_every": 20}}}
    curves = {"online": claims_of(0.8, 0.0), "planted": claims_of(0.8, 0.6)}
    found = results(tmp_path / "a", ROBOFUME, {"online": config, "planted": config}, curves)
    assert [verdict(ROBOFUME, s, found) for s in ("F3", "F4", "F5")] == ["holds"] * 3
    curves = {"online": claims_of(0.8, 0.4), "planted": claims_of(0.8, 0.0)}
    often = {"config.json": {"offline_rl": {"episodes": 10, "online_steps": 4, "reset_every": 5}}}
    found = results(tmp_path / "b", ROBOFUME, {"online": often, "planted": config}, curves)
    assert [verdict(ROBOFUME, s, found) for s in ("F3", "F4", "F5")] == ["fails"] * 3


@pytest.mark.parametrize(("plain", "right", "wanted"), [(0.5, 0.4, "holds"), (0.9, -0.6, "fails")])
def test_vpl_serves_its_user_or_it_does_not(tmp_path: Path, plain: float, right: float, wanted: str) -> None:
    files = {
        "left": {QUALITY: {"contested": 0.88}, "users.json": {"side": -0.5, "utility/0": 0.5}},
        "right": {"users.json": {"side": right, "utility/1": right}},
        "plain": {QUALITY: {"contested": plain}, "users.json": {"utility/0": 0.1, "utility/1": 0.1}},
    }
    found = results(tmp_path, VPL, files, {})
    assert [verdict(VPL, s, found) for s in ("V1", "V3", "V6", "V7")] == [wanted] * 4
    assert verdict(VPL, "V2", found) == "holds"
