"""The claims about merging: their measurements on a small pool, and that each statement can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmalign.benchmarks.claims import breadcrumbs, breadcrumbs_measured, hst, soups, soups_measured
from mmalign.benchmarks.claims.breadcrumbs_measured import merge_tasks, random_masks
from mmalign.benchmarks.claims.merging_measured import opened, shifted
from mmalign.benchmarks.claims.soups_measured import in_another_basis, pool
from mmalign.config.load import load_config
from mmalign.engine.transfer.fitting import FitPlan
from mmalign.pipeline.run import open_run
from mmalign.tuners.backbones import load_backbone
from mmalign.tuners.merging import uniform_soup


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(soups_measured, "TASKS", ("cells", "digit-parity"))
    monkeypatch.setattr(breadcrumbs_measured, "PAIRS", (("cells", "digit-parity"),))
    monkeypatch.setattr(soups_measured, "MEMBERS", 2)
    monkeypatch.setattr(soups_measured, "EPOCHS", (1,))
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


def test_another_basis_is_the_same_function_and_no_partner_for_a_mean() -> None:
    model = load_backbone("mini-vit", 5).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are 0 or 1 everywhere would hide a slip
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        state = {name: value.clone() for name, value in model.state_dict().items()}
        pictures = torch.randn(3, 3, 24, 24)
        want = model(pictures)
        moved = in_another_basis(state, torch.randperm(48, generator=torch.Generator().manual_seed(0)))
        model.load_state_dict(moved)
        torch.testing.assert_close(model(pictures), want, atol=1e-4, rtol=1e-4)
        assert any(not torch.equal(moved[name], value) for name, value in state.items())
        model.load_state_dict(uniform_soup([state, moved]))
        assert float((model(pictures) - want).norm() / want.norm()) > 0.3
    with pytest.raises(ValueError, match="not a weight of a plain timm ViT"):
        in_another_basis({"norm.weight": torch.ones(4), "stem.conv": torch.ones(4)}, torch.arange(4))


def test_merged_tasks(small: Path) -> None:
    ctx = run_at(small)
    merge_tasks(ctx)  # type: ignore[arg-type]
    found = json.loads((small / "measured.json").read_text())
    assert {f"{name}/test" for name in ("base", "mean", "alone", *breadcrumbs_measured.METHODS)} <= set(found)
    assert found["arithmetic/scale"] == 0.3
    assert found["cells+digit-parity/ties/test"] == found["ties/test"]
    assert 0.5 < found["alone/test"] <= 1.0


def test_the_shift_keeps_labels_and_lowers_contrast(small: Path) -> None:
    (run,) = opened(run_at(small), ["cells"])  # type: ignore[arg-type]
    model, plain = run.model(0), run.split("val")
    moved = shifted(plain, model, 3)
    assert torch.equal(moved.y, plain.y)
    assert torch.equal(moved.x, shifted(plain, model, 3).x)
    assert 0.4 < float(moved.x.std() / plain.x.std()) < 0.95
    assert float(moved.x.abs().max()) <= 1.0


class Canned:
    """Results with figures given by hand: three seeds."""

    def __init__(self, figures: dict[str, list[float]]) -> None:
        self.figures = figures

    def cells(self, arm: str) -> range:
        return range(3)

    def value(self, arm: str, metric: str, cell: int) -> float:
        return self.figures[metric][cell]

    def per_start(self, arm: str, metric: str) -> dict[str, list[float]]:
        return {"base": self.figures[metric]}


def test_statements_of_soups_can_fail_and_hold() -> None:
    up = {
        f"measured/{task}/{key}": [level, level + 0.01, level - 0.01]
        for task in soups.TASKS
        for key, level in (("test/greedy", 0.7), ("test/best", 0.6), ("val/greedy", 0.6), ("val/best", 0.6))
    }
    assert soups.above("test/greedy", "test/best")(Canned(up)).verdict == "holds"  # type: ignore[arg-type]
    assert soups.above("test/best", "test/greedy")(Canned(up)).verdict == "fails"  # type: ignore[arg-type]
    assert soups.never_below_on_validation(Canned(up)).verdict == "holds"  # type: ignore[arg-type]
    up[f"measured/{soups.TASKS[0]}/val/greedy"][1] -= 0.1
    assert soups.never_below_on_validation(Canned(up)).verdict == "fails"  # type: ignore[arg-type]
    alone = {"measured/test/strangers": [0.5, 0.6, 0.5], "measured/test/strangers_soup": [0.1, 0.1, 0.12]}
    assert soups.strangers_spoil(Canned(alone)).verdict == "holds"  # type: ignore[arg-type]
    alone["measured/test/strangers_soup"] = [0.45, 0.6, 0.5]
    assert soups.strangers_spoil(Canned(alone)).verdict == "fails"  # type: ignore[arg-type]


def test_statements_of_breadcrumbs_and_hst_can_fail_and_hold() -> None:
    figures = {
        f"measured/{'+'.join(pair)}/{method}/test": scores
        for pair in breadcrumbs_measured.PAIRS
        for method, scores in (("breadcrumbs", [0.5, 0.52, 0.51]), ("arithmetic", [0.4, 0.41, 0.41]))
    }
    assert breadcrumbs.above("breadcrumbs", "arithmetic")(Canned(figures)).verdict == "holds"  # type: ignore[arg-type]
    assert breadcrumbs.above("arithmetic", "breadcrumbs")(Canned(figures)).verdict == "fails"  # type: ignore[arg-type]
    kept = Canned({"measured/cost/saved_bytes": [1e6] * 3, "measured/cost/trainable": [9e3] * 3})
    assert hst.keeps_little(kept).verdict == "fails"  # type: ignore[arg-type]
    assert hst.about_as_many(kept).verdict == "holds"  # type: ignore[arg-type]
