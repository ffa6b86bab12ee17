"""The claims about diffusion methods run in quick on a tiny random pipeline and judge what they find."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from mmalign.benchmarks.claims import (
    classdiffusion,
    concept_measured,
    concept_world,
    ddpo,
    diffusion_dpo,
    draft_alignprop,
    flow_grpo,
    pictures_measured,
    raft_diffusion,
)
from mmalign.claims import run as runner
from mmalign.claims.plan import check_equal
from mmalign.worlds import drawings
from tests.rewards.pictures_build import open_clip_folder, pictures, rollout

CLAIMS = {
    "ddpo": ddpo.CLAIM,
    "flow-grpo": flow_grpo.CLAIM,
    "diffusion-dpo": diffusion_dpo.CLAIM,
    "raft-diffusion": raft_diffusion.CLAIM,
    "draft-alignprop": draft_alignprop.CLAIM,
    "classdiffusion": classdiffusion.CLAIM,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random drawer and a random dual encoder."""
    from mmalign.worlds.drawings.model import make_pipeline

    root = tmp_path_factory.mktemp("parts")
    made = make_pipeline(0, width=32, layers=1, text_width=32, text_layers=1)
    with torch.no_grad():
        made.transformer.proj_out.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    made.save_pretrained(root / "drawer", safe_serialization=True)
    open_clip_folder(root / "clip")
    return root / "drawer", root / "clip"


@pytest.mark.parametrize("name", CLAIMS)
def test_arms_are_held_equal(name: str) -> None:
    for quick in (False, True):
        keys = check_equal(CLAIMS[name], quick=quick)
        assert {"seed", "modality", "data.world"} <= set(keys)
    assert CLAIMS[name].seeds >= 3 and CLAIMS[name].name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_in_quick_and_judges(
    name: str, parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawings, "CLIP", parts[1])
    claim = replace(CLAIMS[name], starts={"tiny": {"model.model_name_or_path": str(parts[0])}})
    monkeypatch.setattr(runner, "find_claim", lambda _: claim)
    console = Console(file=io.StringIO())
    runner.run_claim(name, seeds=1, quick=True, output_dir=tmp_path, workers=0, console=console)
    record = json.loads((tmp_path / "claim.json").read_text())
    verdicts = {s["id"]: s for s in record["statements"]}
    for ident in verdicts.keys() & {"E1", "L1", "S1", "W1"}:
        assert verdicts[ident]["verdict"] == "holds", verdicts[ident]
    unmeasured = [
        s for s in verdicts.values() if "no metric" in s["measured"] or "not exist" in s["measured"]
    ]
    assert not unmeasured, unmeasured


def test_diversity_is_the_mean_distance_within_a_prompt() -> None:
    shown = pictures(4, 6)
    batch = rollout(list(shown), group=[0, 0, 1, 1])
    wanted = [float((255 * (shown[a] - shown[b])).square().mean().sqrt()) for a, b in ((0, 1), (2, 3))]
    assert pictures_measured.diversity(batch) == pytest.approx(sum(wanted) / 2, rel=1e-4)


def test_the_thing_is_most_like_itself_wherever_it_stands() -> None:
    rows = concept_world.rows("train", 99)
    assert len(rows) == concept_world.CONCEPTS == len({row.completion.tobytes() for row in rows})
    own = [concept_measured.likeness(np.asarray(row.completion)) for row in rows]
    plain = [
        concept_measured.likeness(
            drawings.draw_array(drawings.scene_for(drawings.read_prompt(text), 0, "train"))
        )
        for text in ("a red square", "a blue circle", "two green crosses")
    ]
    assert min(own) > 0.999 and max(plain) < 0.7
    readings = drawings.detect([row.completion for row in rows], "template")
    words = [f"{o.color} {o.cls}" for reading in readings for o in reading.objects]
    assert not words, "the world has no word for it"
