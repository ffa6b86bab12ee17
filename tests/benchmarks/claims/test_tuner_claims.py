"""The claims about tuners: definitions that hold arms equal, statements that can fail, and small measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmalign.benchmarks.claims import ast_adapters, ast_measured, dr_tune, eva, hst, mhr, mhr_measured, spt
from mmalign.benchmarks.claims.transfer_checks import above, counts
from mmalign.benchmarks.transfer.mini_vtab import MiniVTAB
from mmalign.claims.definition import Claim
from mmalign.claims.plan import arm_config, check_equal
from mmalign.claims.results import Cell
from mmalign.config.load import load_config
from mmalign.config.transfer import TransferConfig
from mmalign.engine.transfer.fitting import Examples, FitPlan, fit
from mmalign.engine.transfer.prepare import prepare
from mmalign.pipeline.run import open_run
from mmalign.tuners.adapters import AdapterPart


class Canned:
    """Results of two seeds with figures given by hand."""

    def __init__(
        self, figures: dict[str, dict[str, list[float]]], curves: dict[str, list[float]] | None = None
    ) -> None:
        self.figures, self.curves = figures, curves or {}

    def arms(self) -> list[Cell]:
        from mmalign.claims.definition import Arm

        return [Arm(name) for name in self.figures]  # type: ignore[misc]

    def cells(self, arm: str) -> list[Cell]:
        return [Cell("base", 0), Cell("base", 1)]

    def metrics(self, arm: str, cell: Cell) -> dict[str, float]:
        return {name: column[cell.seed] for name, column in self.figures[arm].items()}

    def value(self, arm: str, metric: str, cell: Cell) -> float:
        return self.figures[arm][metric][cell.seed]

    def curve(self, arm: str, stage: str, metric: str, cell: Cell) -> list[float]:
        return [value + cell.seed / 100 for value in self.curves[arm]]


def tasks(*scores: float, trained: float = 453.0) -> dict[str, list[float]]:
    return {
        "measured/average/tasks": [0.0, 0.0],
        "measured/cost/trainable": [trained, trained],
        **{f"measured/task/{k}": [s, s + 0.01] for k, s in enumerate(scores)},
    }


@pytest.mark.parametrize("claim", [spt.CLAIM, eva.CLAIM, dr_tune.CLAIM], ids=lambda claim: claim.name)
def test_arms_differ_in_what_the_claim_is_about_alone(claim: object) -> None:
    keys = check_equal(claim, quick=False)  # type: ignore[arg-type]
    assert {"transfer.suite", "transfer.backbone", "transfer.epochs", "transfer.tasks"} <= set(keys)
    seeds = [arm_config(claim, claim.arms[0], Cell("base", k), Path("x"), quick=False) for k in (0, 1)]  # type: ignore[attr-defined,arg-type]
    assert seeds[0].transfer == seeds[1].transfer and seeds[0].transfer.selection_seed == 0


def test_a_difference_is_paired_by_seed_and_task() -> None:
    good = Canned({"a": tasks(0.5, 0.6, 0.7), "b": tasks(0.4, 0.52, 0.61)})
    found = above("a", "b")(good)  # type: ignore[arg-type]
    assert found.verdict == "holds" and found.value == pytest.approx(0.09)
    assert "over 6 pairs" in found.text and "above in 3 of 3 tasks" in found.text
    assert above("b", "a")(good).verdict == "fails"  # type: ignore[arg-type]
    mixed = Canned({"a": tasks(0.5, 0.6, 0.8), "b": tasks(0.6, 0.52, 0.61)})
    assert above("a", "b")(mixed).verdict == "inconclusive"  # type: ignore[arg-type]


def test_counts_are_held_to_the_budget() -> None:
    check = counts(453, ("a",), ("b",))
    assert check(Canned({"a": tasks(0.5, trained=450), "b": tasks(0.5, trained=768)})).verdict == "holds"  # type: ignore[arg-type]
    assert check(Canned({"a": tasks(0.5, trained=440), "b": tasks(0.5, trained=768)})).verdict == "fails"  # type: ignore[arg-type]
    assert check(Canned({"a": tasks(0.5, trained=453), "b": tasks(0.5, trained=452)})).verdict == "fails"  # type: ignore[arg-type]


def test_a_loss_that_falls_faster() -> None:
    results = Canned({"a": {}, "b": {}}, {"a": [2.0, 1.0], "b": [2.0, 1.5]})
    found = eva.falls_faster("a", "b")(results)  # type: ignore[arg-type]
    assert found.value == pytest.approx(0.25)
    assert eva.falls_faster("b", "a")(results).verdict == "fails"  # type: ignore[arg-type]


def test_statements_on_shared_skills_can_fail() -> None:
    figures = {
        f"measured/{name}/task/{task}": [score, score + 0.01]
        for name, score in zip(mhr_measured.METHODS, (0.5, 0.55, 0.6, 0.65, 0.63, 0.66), strict=True)
        for task in mhr_measured.NEW
    }
    figures |= {
        f"measured/{name}/trained": [count] * 2
        for name, count in (("shared", 99), ("poly", 100), ("mhr", 101))
    }
    results = Canned({mhr.ARM: figures})
    by = {statement.id: statement for statement in mhr.CLAIM.statements}
    assert all(by[key].check(results).verdict == "holds" for key in ("E1", "M1", "M2", "M3", "Z1", "Z2"))  # type: ignore[arg-type]
    assert mhr.above("shared", "mhr")(results).verdict == "fails"  # type: ignore[arg-type]
    assert mhr.not_far_below("alone", "mhr", 0.03)(results).verdict == "fails"  # type: ignore[arg-type]
    figures["measured/poly/trained"] = [120, 120]
    assert by["E1"].check(results).verdict == "fails"  # type: ignore[arg-type]


def test_skills_learnt_together_and_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mhr_measured, "TOGETHER", ("cells", "lesions"))
    monkeypatch.setattr(mhr_measured, "NEW", ("digit-parity",))
    monkeypatch.setattr(mhr_measured, "RATES", (1e-2,))
    monkeypatch.setattr(mhr_measured, "EPOCHS", 1)
    monkeypatch.setattr(mhr_measured, "FEW_EPOCHS", 2)
    ctx = open_run(load_config("mini-vtab", [f"--output_dir={tmp_path}"]))
    mhr_measured.multitask(ctx)
    found = json.loads((tmp_path / "measured.json").read_text())
    blocks, wide = 4, 48
    rank_1 = blocks * ((wide + 3 * wide) + 2 * wide + 2 * (wide + 4 * wide))
    lora = 8 * rank_1  # four skills of rank 2; what is held against them has rank 9, for their routing
    assert found["shared/trained"] == 9 * rank_1 == found["alone/few"]
    layers, rows = 4 * blocks, 3  # routing of two tasks together and a new one
    assert found["poly/trained"] == lora + layers * rows * 4
    assert found["mhr/trained"] == lora + layers * rows * 4 * 4
    assert found["mhr_z/few"] == layers * rows * 4 * 4 and found["mhr_mu/few"] == lora / 4
    assert all(0.3 < found[f"{name}/mean"] <= 1.0 for name in mhr_measured.METHODS)


def test_an_ast_is_tuned_in_every_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "PRETRAIN": 40,
        "PRETRAIN_EPOCHS": 1,
        "TRAIN": 20,
        "VALIDATION": 12,
        "TEST": 12,
    }.items():
        monkeypatch.setattr(ast_measured, name, value)
    monkeypatch.setattr(ast_measured, "EPOCHS", 1)
    monkeypatch.setattr(ast_measured, "TASKS", ("tempo",))
    folder = tmp_path / "cell" / "ast"
    ctx = open_run(load_config("mini-vtab", [f"--output_dir={folder}"]))
    ast_measured.hear(ctx)
    found = json.loads((folder / "measured.json").read_text())
    assert (tmp_path / "pretrained" / "model.safetensors").is_file()
    wide, blocks = 48, 3
    assert found["bottleneck/trained"] == found["reference/trained"] == blocks * (2 * wide * 4 + 4 + wide)
    assert found["conformer/trained"] == blocks * (2 * wide + 4 * (wide + 1) + 2 * 31 + 4 + 3 * wide)
    assert found["linear/trained"] == 0 and found["full/trained"] > 60_000
    assert all(0.0 <= found[f"{name}/mean"] <= 1.0 for name in ast_measured.ARMS)


@pytest.mark.parametrize("claim", [spt.CLAIM, hst.CLAIM])
def test_a_recorded_claim_is_on_the_tasks_it_defines(claim: Claim) -> None:
    assert claim.recorded is not None
    recorded = json.loads(claim.recorded.read_text())["arms"]["lora"]
    tasks = {name.removeprefix("measured/task/") for name in recorded if name.startswith("measured/task/")}
    assert tasks == set(claim.overrides.get("transfer.tasks", (task.name for task in MiniVTAB().tasks())))


def test_an_adapter_as_in_the_reference_code_never_trains() -> None:
    arm, data = ast_measured.ARMS["reference"], Examples(torch.randn(8, 100, 72), torch.arange(8) % 3)
    cfg = TransferConfig.model_validate({"tuner": {"name": arm.tuner, "options": arm.options}})
    ready = prepare(ast_measured.Spectral(3, 0), cfg, data, learning_rate=1e-2, seed=0)
    ast_measured.never_trains(ready.model)
    fit(ready.model, data, FitPlan(1e-2, epochs=3, batch_size=4, weight_decay=0.0))
    parts = [module for module in ready.model.modules() if isinstance(module, AdapterPart)]
    assert len(parts) == 3
    for part in parts:
        assert not part.down.weight.any() and not part.up.weight.any() and part.up.bias.abs().max() > 0


def test_statements_on_audio_adapters_can_fail() -> None:
    scores = {
        "linear": 0.5,
        "full": 0.8,
        "lora": 0.7,
        "bottleneck": 0.75,
        "conformer": 0.79,
        "reference": 0.55,
    }
    figures = {f"measured/{n}/task/{t}": [s, s + 0.01] for n, s in scores.items() for t in ast_measured.TASKS}
    figures |= {
        f"measured/{n}/trained": [c] * 2 for n, c in zip(scores, (0, 9e4, 2e3, 1e3, 2e3, 1e3), strict=True)
    }
    results = Canned({ast_adapters.ARM: figures})
    assert all(s.check(results).verdict == "holds" for s in ast_adapters.CLAIM.statements)  # type: ignore[arg-type]
    assert ast_adapters.above("linear", "conformer")(results).verdict == "fails"  # type: ignore[arg-type]
    assert ast_adapters.at_most_below("lora", "full", 0.03)(results).verdict == "fails"  # type: ignore[arg-type]
    figures["measured/conformer/trained"] = [1e4] * 2
    assert ast_adapters.small_share(results).verdict == "fails"  # type: ignore[arg-type]
