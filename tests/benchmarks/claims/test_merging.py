"""The claims about merging: their measurements on a small pool, and that each statement can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmalign.benchmarks.claims import breadcrumbs_measured, soups_measured
from mmalign.benchmarks.claims.breadcrumbs_measured import merge_tasks, random_masks
from mmalign.benchmarks.claims.merging_measured import opened, shifted
from mmalign.benchmarks.claims.soups_measured import pool
from mmalign.config.load import load_config
from mmalign.engine.transfer.fitting import FitPlan
from mmalign.pipeline.run import open_run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for module in (soups_measured, breadcrumbs_measured):
        monkeypatch.setattr(module, "TASKS", ("cells", "digit-parity"))
    monkeypatch.setattr(soups_measured, "MEMBERS", 2)
    monkeypatch.setattr(soups_measured, "EPOCHS", (1,))
    monkeypatch.setattr(soups_measured, "STRANGER_EPOCHS", 1)
    monkeypatch.setattr(soups_measured, "LEARNED_STEPS", 1)
    monkeypatch.setattr(breadcrumbs_measured, "SCALES", (0.3,))
    monkeypatch.setattr(breadcrumbs_measured, "TUNE", FitPlan(1e-3, 1))
    return tmp_path


def run_at(folder: Path) -> object:
    return open_run(load_config("mini-vtab", [f"--output_dir={folder}"]))


def test_random_masks_keep_the_share_of_every_row() -> None:
    base = {"w": torch.zeros(4, 10), "b": torch.zeros(10)}
    tuned = {name: torch.rand(value.shape) + 1 for name, value in base.items()}
    merged = random_masks(base, [tuned], 0.3, 0)
    assert (merged["w"] != 0).sum(1).tolist() == [3] * 4
    assert int((merged["b"] != 0).sum()) == 3
    assert torch.equal(merged["w"][merged["w"] != 0], tuned["w"][merged["w"] != 0])
    assert not torch.equal(merged["w"], random_masks(base, [tuned], 0.3, 1)["w"])
    twice = random_masks(base, [tuned, tuned], 1.0, 0)
    torch.testing.assert_close(twice["w"], 2 * tuned["w"])


def test_a_pool(small: Path) -> None:
    ctx = run_at(small)
    pool(ctx)  # type: ignore[arg-type]
    found = json.loads((small / "measured.json").read_text())
    for task in ("cells", "digit-parity"):
        assert found[f"{task}/val/greedy"] >= found[f"{task}/val/best"]
    assert found["test/member"] == pytest.approx(
        (found["cells/test/member"] + found["digit-parity/test/member"]) / 2
    )
    assert {"shift/ensemble", "test/learned", "test/strangers_soup", "ingredients"} <= set(found)


def test_merged_tasks(small: Path) -> None:
    ctx = run_at(small)
    merge_tasks(ctx)  # type: ignore[arg-type]
    found = json.loads((small / "measured.json").read_text())
    assert {f"{name}/test" for name in ("base", "mean", "alone", *breadcrumbs_measured.METHODS)} <= set(found)
    assert found["arithmetic/scale"] == 0.3
    assert 0.5 < found["alone/test"] <= 1.0


def test_the_shift_keeps_labels_and_lowers_contrast(small: Path) -> None:
    (run,) = opened(run_at(small), ["cells"])  # type: ignore[arg-type]
    model, plain = run.model(0), run.split("val")
    moved = shifted(plain, model, 3)
    assert torch.equal(moved.y, plain.y)
    assert torch.equal(moved.x, shifted(plain, model, 3).x)
    assert 0.4 < float(moved.x.std() / plain.x.std()) < 0.95
    assert float(moved.x.abs().max()) <= 1.0
