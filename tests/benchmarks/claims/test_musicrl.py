"""The claim about MusicRL runs in quick on a random model of music and judges what it finds; its recipes are whole."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mmalign.benchmarks.claims import musicrl
from mmalign.claims import run as runner
from mmalign.claims.plan import check_equal
from mmalign.config.load import load_config


def test_arms_are_held_equal() -> None:
    for quick in (False, True):
        keys = check_equal(musicrl.CLAIM, quick=quick)
        assert {"seed", "model.lora_r", "grpo.kl_budget", "grpo.max_steps", "data.world"} <= set(keys)
    assert musicrl.CLAIM.seeds >= 3 and musicrl.CLAIM.name == "musicrl"


@pytest.mark.parametrize("name", ["musicrl", "musicrl-u", "musicrl-ru", "demo-music", "demo-music-quick"])
def test_recipes_say_what_they_are(name: str) -> None:
    """R is in every reward but U's own, and pieces are as long as the world's."""
    from mmalign import registry

    cfg = load_config(name, [])
    plain = [cfg.reward.name, *cfg.reward.also]
    assert ("tunes-r" in plain) == (name != "musicrl-u")
    assert ("preference" in plain) == (name in ("musicrl-u", "musicrl-ru"))
    for reward in cfg.reward.also:
        assert not hasattr(registry.load("rewards", reward), "reward"), (
            "a recipe cannot be paid beside another"
        )
    assert cfg.modality == "audio" and cfg.data.world == "tunes" and cfg.evaluate.tasks == ("tunes",)
    assert cfg.grpo.max_completion_length == cfg.evaluate.max_new_tokens == 30
    assert cfg.grpo.kl_budget is not None and cfg.grpo.advantage == "rloo" and not cfg.grpo.dense_advantages


@pytest.mark.slow
def test_the_claim_runs_in_quick_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign.worlds.tunes.codec import BandCodec
    from mmalign.worlds.tunes.model import BASE, make_model
    from mmalign.worlds.tunes.ship import ship

    small = make_model(0, width=32, layers=1, text_width=16, text_layers=1)
    ship(small, BandCodec.load(BASE), tmp_path / "model", {})
    claim = replace(musicrl.CLAIM, starts={"tiny": {"model.model_name_or_path": str(tmp_path / "model")}})
    monkeypatch.setattr(runner, "find_claim", lambda _: claim)
    console = Console(file=io.StringIO())
    runner.run_claim("musicrl", seeds=1, quick=True, output_dir=tmp_path / "out", workers=0, console=console)
    record = json.loads((tmp_path / "out" / "claim.json").read_text())
    verdicts = {s["id"]: s for s in record["statements"]}
    for ident in ("E1", "L1"):
        assert verdicts[ident]["verdict"] == "holds", verdicts[ident]
    unmeasured = [
        s for s in verdicts.values() if "no metric" in s["measured"] or "not exist" in s["measured"]
    ]
    assert not unmeasured, unmeasured
    lists = [s for s in verdicts.values() if s["id"].startswith("D")]
    assert lists and all("start_best" in s["measured"] for s in lists)
