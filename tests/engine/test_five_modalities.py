"""Text, vision, diffusion, audio and robot through the same function objects: a policy gradient and a preference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "text"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "vision"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "diffusion"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "audio"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "robot"))

import diffusion_families
import music_models
import robot_policies
import text_families
import vision_families
from vision_rows import picture

import mmalign.engine.pairs as pairs_engine
import mmalign.engine.update as update_engine
from mmalign.data.pairs import Pair
from mmalign.engine.experience import make_experience
from mmalign.engine.reference import Reference
from mmalign.engine.scoring import score_rollout
from mmalign.modalities.audio import AudioAdapter
from mmalign.modalities.diffusion import DiffusionAdapter
from mmalign.modalities.text import TextAdapter
from mmalign.modalities.vision import VisionAdapter
from mmalign.objectives.policy_family import policy_family_loss
from mmalign.objectives.preference import PairSettings, preference_loss
from mmalign.rng import generator
from mmalign.types import Row, StepReward
from tests.engine.settings import ppo_settings

MODALITIES = ("text", "vision", "diffusion", "audio", "robot")


def opened(modality: str, root: Path) -> tuple[Any, Any, list[Row]]:
    """Adapter, policy and two prompts of a modality."""
    if modality == "text":
        text = TextAdapter()
        model = text.load(str(text_families.build("llama", root)))
        return text, model, [Row("a", "Say something"), Row("b", "question")]
    if modality == "vision":
        vision = VisionAdapter()
        model = vision.load(str(vision_families.build("llava", root).folder))
        return vision, model, [Row(str(k), "What is it?", (picture(k, 64, 64),)) for k in range(2)]
    if modality == "diffusion":
        diffusion = DiffusionAdapter()
        diffusion.configure({"num_inference_steps": 3})
        model = diffusion.load(str(diffusion_families.build("sd", root)))
        return diffusion, model, [Row("a", "a red circle"), Row("b", "a green cross")]
    if modality == "audio":
        audio = AudioAdapter()
        model = audio.load(str(music_models.build(root / "music")))
        return audio, model, [Row("a", "a bright slow piano"), Row("b", "a dark fast bass")]
    robot, policy = robot_policies.made(environment="gymnasium:Identity-v0")
    return robot, policy, [Row("a", {"seed": 1}), Row("b", {"seed": 2})]


@pytest.fixture(scope="module", params=MODALITIES)
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Adapter, policy, reference and two answers to each of two prompts."""
    adapter, model, rows = opened(request.param, tmp_path_factory.mktemp("five"))
    model.eval()
    reference = Reference(adapter, model, "copy")
    rollout = adapter.sample(model, rows, 2, generator(0, request.param), max_steps=8)
    return adapter, model, reference, rollout


def test_recomputed_log_probabilities_are_the_samplers(drawn: tuple[Any, ...]) -> None:
    adapter, model, _, rollout = drawn
    with torch.no_grad():
        scored = adapter.logp(model, adapter.collate(rollout.rows))
    assert not scored.surrogate and torch.equal(scored.mask, rollout.mask)
    gap = ((scored.values - rollout.logp) * rollout.mask).abs()
    assert float(gap.max()) < 1e-5 * max(1.0, float((rollout.logp * rollout.mask).abs().max()))


def test_one_policy_gradient(drawn: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, model, reference, rollout = drawn
    seen = []

    def watched(*arguments: Any) -> Any:
        seen.append(arguments)
        return policy_family_loss(*arguments)

    monkeypatch.setattr(update_engine, "policy_family_loss", watched)
    cfg = ppo_settings(advantage="grpo", num_generations=2, cliprange=None, kl_coef=0.0)
    per_step = torch.zeros(rollout.mask.shape)
    per_step[:, 0] = torch.tensor([1.0, 0.0, 0.0, 2.0])
    reward = StepReward(per_step * rollout.mask, {})
    critics: Any = {"values": None, "cost_values": None}
    scored = score_rollout(adapter, model, reference, critics, rollout, cfg, reward)
    data = make_experience(scored, cfg, 0.0)
    model.zero_grad()
    loss = update_engine.policy_update_loss(adapter, model, None, data, [0, 1, 2, 3], cfg, 0.0)
    loss.value.backward()
    assert len(seen) == 1 and all(isinstance(tensor, torch.Tensor) for tensor in seen[0][:4])
    assert float(loss.metrics["clip_ratio"]) == 0.0 and abs(float(loss.metrics["approx_kl"])) < 1e-4
    moved = [p for p in model.parameters() if p.grad is not None and bool(p.grad.any())]
    assert moved, "the gradient must reach the policy"


def test_one_preference(drawn: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, model, reference, rollout = drawn
    seen = []

    def watched(*arguments: Any) -> Any:
        seen.append(arguments)
        return preference_loss(*arguments)

    monkeypatch.setattr(pairs_engine, "preference_loss", watched)
    rows = rollout.rows
    pairs = [Pair(rows[0], rows[1]), Pair(rows[3], rows[2])]
    objective = pairs_engine.pair_objective(adapter, model, reference, PairSettings(beta=0.1))
    model.zero_grad()
    loss = objective(pairs, generator(0))
    loss.value.backward()
    assert len(seen) == 1
    assert float(loss.value.detach()) == pytest.approx(0.6931, abs=1e-3)  # the policy is its reference
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
