"""Stage ``transfer``: the protocol, resuming, shared rates, averages and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.dry_run import _passes, dry_run, shrunk
from mmalign.pipeline.run import run_recipe

TASKS = ("digit-parity", "cells", "vehicle")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT of random weights, 8 wide and 1 deep, as timm saves it."""
    torch.manual_seed(0)
    sizes = {"img_size": 24, "patch_size": 12, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    folder = tmp_path_factory.mktemp("vit")
    timm.models.save_for_hf(model, folder, model_args=sizes, safe_serialization=True)
    return f"local:{folder}"


def settings(backbone: str, folder: Path, *flags: str) -> Any:
    given = [f"--output_dir={folder}", f"--transfer.backbone={backbone}", "--transfer.epochs=1"]
    given += [f"--transfer.tasks={','.join(TASKS)}", "--transfer.learning_rates=1e-3,1e-2"]
    return load_config("mini-vtab", [*given, *flags])


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stages" / "transfer" / "results.json").read_text())
    return found


def timeless(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in one.items() if k != "cpu_seconds"} for one in found["results"]]


def test_protocol_averages_and_report(backbone: str, tmp_path: Path) -> None:
    run_recipe(settings(backbone, tmp_path, "--transfer.tuner.options={r: 1}"))
    found = results(tmp_path)
    assert [one["task"] for one in found["results"]] == list(TASKS)
    for one in found["results"]:
        best = max(one["validation"].values())
        assert one["learning_rate"] == min(float(r) for r, v in one["validation"].items() if v == best)
        assert one["trainable"] == (8 + 24) + (8 + 8) + 2 * (8 + 32)  # rank 1 at qkv, proj, fc1, fc2
    by = {one["group"]: one["accuracy"] for one in found["results"]}
    assert len(by) == 3
    assert found["average"]["groups"] == pytest.approx(sum(by.values()) / 3)
    assert found["results"][0]["n_test"] == 797 and found["results"][1]["n_test"] == 1000
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["average/tasks"] == pytest.approx(sum(by.values()) / 3)
    assert measured["task/cells"] == found["results"][1]["accuracy"]
    page = (tmp_path / "report.html").read_text()
    assert "digit-parity" in page and "mean of the group means" in page and "tuned to 3 tasks" in page
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "samples.jsonl" not in page + card.split("## Configuration")[0]  # there are no answers to point at
    assert (
        f"| cells | specialised | {100 * measured['task/cells']:.1f} |" in card
        and "before" not in card.split("## Use")[0]
    )


def test_a_killed_run_goes_on_and_ends_the_same(backbone: str, tmp_path: Path) -> None:
    run_recipe(settings(backbone, tmp_path / "a"))
    run_recipe(settings(backbone, tmp_path / "b"))
    whole = timeless(results(tmp_path / "a"))
    assert timeless(results(tmp_path / "b")) == whole
    stage = tmp_path / "b" / "stages" / "transfer"
    (stage / "done.json").unlink()
    (stage / "tasks" / "cells.json").unlink()
    before = (stage / "tasks" / "vehicle.json").read_bytes()
    run_recipe(settings(backbone, tmp_path / "b"))
    assert timeless(results(tmp_path / "b")) == whole
    assert (stage / "tasks" / "vehicle.json").read_bytes() == before
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_rates_are_chosen_once_for_all_seeds(backbone: str, tmp_path: Path) -> None:
    flags = ("--transfer.selection_seed=0", "--transfer.selection_dir=../kept", "--transfer.tasks=cells")
    run_recipe(settings(backbone, tmp_path / "0", *flags))
    (kept,) = (tmp_path / "kept").glob("*/cells.json")
    choice = json.loads(kept.read_text())
    kept.write_text(json.dumps({**choice, "rate": 0.5}))  # proof that it is read
    run_recipe(settings(backbone, tmp_path / "1", *flags, "--seed=1"))
    first, second = results(tmp_path / "0")["results"][0], results(tmp_path / "1")["results"][0]
    assert first["learning_rate"] == choice["rate"] and second["learning_rate"] == 0.5
    assert first["validation"] == second["validation"] == choice["tried"]
    run_recipe(settings(backbone, tmp_path / "2", *flags, "--transfer.epochs=2"))
    assert len(list((tmp_path / "kept").glob("*/cells.json"))) == 2


def test_saved_weights_are_those_that_were_scored(backbone: str, tmp_path: Path) -> None:
    run_recipe(settings(backbone, tmp_path, "--transfer.tuner.name=full", "--transfer.tasks=cells",
                        "--transfer.save_models=true", "--transfer.learning_rates=1e-2"))  # fmt: skip
    from safetensors.torch import load_file

    from mmalign.benchmarks.transfer.mini_vtab import MiniVTAB
    from mmalign.engine.transfer.fitting import score
    from mmalign.engine.transfer.task import TaskRun

    cfg = settings(backbone, tmp_path).transfer
    suite = MiniVTAB()
    task = next(task for task in suite.tasks() if task.name == "cells")
    run = TaskRun.of(cfg, suite, task)
    model = run.model(5)
    model.load_state_dict(
        load_file(tmp_path / "stages" / "transfer" / "models" / "cells" / "model.safetensors")
    )
    only = results(tmp_path)["results"][0]
    assert score(model, run.split("test"), 2) == only["accuracy"]
    assert only["validation"] == {} and only["learning_rate"] == 1e-2


def test_errors_name_what_is_wrong(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no 'cell' \(did you mean \"cells\""):
        run_recipe(settings(backbone, tmp_path / "a", "--transfer.tasks=cell"))
    with pytest.raises(UserError, match=r"layer_decay: goes with tuner.name full"):
        settings(backbone, tmp_path, "--transfer.layer_decay=0.7")
    with pytest.raises(UserError, match=r"set selection_seed too"):
        settings(backbone, tmp_path, "--transfer.selection_dir=x")
    with pytest.raises(UserError, match=r"suite_options: suite mini-vtab"):
        run_recipe(settings(backbone, tmp_path / "b", "--transfer.suite_options={sed: 1}"))


def test_a_dry_run_says_what_it_will_cost(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = settings(backbone, tmp_path, "--transfer.epochs=5")
    dry_run(cfg)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("transfer")]
    assert float(line.split()[3]) >= 0 and not list(tmp_path.iterdir())
    assert _passes(cfg.transfer) == 3 * 5 * 3
    assert _passes(shrunk(cfg).transfer) == 1
