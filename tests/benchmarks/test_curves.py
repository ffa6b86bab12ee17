"""The comparison of objectives on the toy modality: equal starts and data, a control that learns nothing, resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.benchmarks.curves.arms import ARMS
from mmalign.benchmarks.curves.compare import compare
from mmalign.benchmarks.curves.training import Plan
from mmalign.errors import UserError
from mmalign.objectives.pair_losses import PAIR_LOSSES

PLAN = Plan(
    steps=20, batch_size=8, learning_rate=1e-2, n_heldout=64, n_pictures=0, modality="toy", world="toy"
)
WANTED = ("sigmoid", "simpo", "kto", "bco", "shuffled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("curves")
    compare(PLAN, root, [arm for arm in ARMS if arm.name in WANTED], log=lambda text: None)
    return root


def test_every_objective_has_an_arm() -> None:
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    used = {name for arm in ARMS if arm.kind == "pair" for name in arm.settings.loss_type}
    assert used == set(PAIR_LOSSES) and {"kto", "apo_zero_unpaired", "bco"} <= {arm.kind for arm in ARMS}


def test_arms_learn_and_the_control_does_not(folder: Path) -> None:
    records = {r["name"]: r for r in json.loads((folder / "objectives.json").read_text())["arms"]}
    assert set(records) == {"start", *WANTED}
    assert records["start"]["heldout"]["margin"] == 0.0 and not records["start"]["curve"]
    for name in WANTED:
        curve = records[name]["curve"]
        assert len(curve) == PLAN.steps
        assert curve[0]["margin"] == pytest.approx(0.0, abs=1e-4) and curve[0]["chosen"] == pytest.approx(
            0.0, abs=1e-4
        )
    good = [records[name]["heldout"] for name in WANTED if name != "shuffled"]
    assert all(found["accuracy"]["ci_low"] > 0.6 for found in good)
    assert records["shuffled"]["heldout"]["margin"] < 0.3 * min(found["margin"] for found in good)
    for found in good:
        assert found["margin"] == pytest.approx(found["chosen"] - found["rejected"], abs=1e-4)


def test_table_and_figure_show_every_arm(folder: Path) -> None:
    table, figure = ((folder / f"objectives.{kind}").read_text() for kind in ("md", "svg"))
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 3 + len(WANTED)
    assert all(f"`{name}`" in table and f">{name}<" in figure for name in WANTED)


def test_the_same_call_reads_back_and_another_plan_is_refused(folder: Path) -> None:
    before = (folder / "objectives.json").read_bytes()
    compare(PLAN, folder, [arm for arm in ARMS if arm.name in WANTED], log=lambda text: None)
    assert (folder / "objectives.json").read_bytes() == before
    with pytest.raises(UserError, match="another plan"):
        compare(Plan(steps=3), folder, [])
