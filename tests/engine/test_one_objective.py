"""One function object serves every modality: text, pictures, music and the toy, against numpy on their own log-probs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "text"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "vision"))
sys.path.insert(0, str(Path(__file__).parents[1] / "modalities" / "audio"))

import music_models
import text_families
import vision_families
from vision_rows import picture

import mmalign.engine.pairs as engine
from mmalign.data.pairs import Pair, pairs_from_rows
from mmalign.engine.reference import Reference
from mmalign.modalities.audio import AudioAdapter
from mmalign.modalities.text import TextAdapter
from mmalign.modalities.vision import VisionAdapter
from mmalign.objectives.preference import PairSettings, preference_loss
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, toy_rows
from mmalign.types import Row

BETA, GAMMA, FLIPPED = 0.3, 0.2, 0.1
SETTINGS = {
    name: PairSettings((name,), beta=BETA, simpo_gamma=GAMMA)
    for name in ("sigmoid", "ipo", "simpo", "apo_zero")
} | {"sigmoid_norm": PairSettings(("sigmoid_norm",), beta=BETA, label_smoothing=FLIPPED)}
MODALITIES = ("text", "text without template", "vision", "audio", "toy")
Scored = list[tuple[np.ndarray, np.ndarray]]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def in_numpy(name: str, chosen: tuple[Any, Any], rejected: tuple[Any, Any]) -> float:
    """One pair from its real steps alone: (policy, reference) log-probs of both answers."""
    (w, w_ref), (l, l_ref) = chosen, rejected  # noqa: E741
    gain_w, gain_l = w.sum() - w_ref.sum(), l.sum() - l_ref.sum()
    if name == "sigmoid":
        return float(np.log1p(np.exp(-BETA * (gain_w - gain_l))))
    if name == "ipo":
        return float((gain_w / len(w) - gain_l / len(l) - 1 / (2 * BETA)) ** 2)
    if name == "simpo":
        return float(np.log1p(np.exp(-(BETA * (w.mean() - l.mean()) - GAMMA))))
    if name == "sigmoid_norm":
        x = BETA * (gain_w / len(w) - gain_l / len(l))
        return float(-(1 - FLIPPED) * np.log(sigmoid(x)) - FLIPPED * np.log(sigmoid(-x)))
    return 1 - sigmoid(BETA * gain_w) + sigmoid(BETA * gain_l)


def made(modality: str, root: Path) -> tuple[Any, Any, list[Pair]]:
    """Adapter, model and pairs; answers of several lengths, down to a single step, two pairs of one prompt."""
    if modality == "toy":
        adapter: Any = ToyAdapter()
        return adapter, adapter.load("toy:1"), pairs_from_rows(toy_rows(4))
    if modality == "audio":
        lengths = [(3200, 1600), (1280, 2240), (960, 3200)]
        rows = [
            Row(
                str(k),
                "bright piano",
                chosen=music_models.sound(k, good),
                rejected=music_models.sound(9 - k, bad),
            )
            for k, (good, bad) in enumerate(lengths)
        ]
        adapter = AudioAdapter()
        return adapter, adapter.load(str(music_models.build(root / "music"))), pairs_from_rows(rows)
    answers = [("a red circle .", "a dog"), ("A cat", "there is a blue square ."), ("a bird !", "a")]
    prompts = ["question", "Say something", "question"]
    if modality == "vision":
        media = [(picture(0, 64, 64),), (picture(1, 90, 40),)]
        family = vision_families.build("llava", root)
        rows = [
            Row(str(k), "What is it?", media[k % 2], chosen=good, rejected=bad)
            for k, (good, bad) in enumerate(answers)
        ]
        adapter = VisionAdapter()
        return adapter, adapter.load(str(family.folder)), pairs_from_rows(rows)
    rows = [Row(str(k), prompts[k], (), chosen=good, rejected=bad) for k, (good, bad) in enumerate(answers)]
    adapter = TextAdapter()
    folder = text_families.build("llama" if modality == "text" else "gpt2", root)
    return adapter, adapter.load(str(folder)), pairs_from_rows(rows)


@pytest.fixture(scope="module", params=MODALITIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """(adapter, policy, reference, pairs); the policy has moved away from the reference."""
    adapter, model, pairs = made(request.param, tmp_path_factory.mktemp("one"))
    reference = Reference(adapter, model, "copy")
    noise = generator(5, request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=noise))
    return adapter, model.eval(), reference, pairs


@torch.no_grad()
def own_logp(adapter: Any, model: Any, reference: Reference, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """The modality's own log-probs of one answer, scored alone, real steps only."""
    batch = adapter.collate([row])
    real = batch.mask[0]
    found = adapter.logp(model, batch).values[0][real], reference.logp(batch)[0][real]
    return found[0].double().numpy(), found[1].double().numpy()


def loss_of(case: tuple[Any, ...], name: str) -> torch.Tensor:
    adapter, model, reference, pairs = case
    return engine.pair_objective(adapter, model, reference, SETTINGS[name])(pairs, generator(0)).value


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_objective_on_every_modality(
    case: tuple[Any, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, model, reference, pairs = case
    calls = 0

    def watched(*tensors: Any) -> Any:
        nonlocal calls
        assert all(isinstance(t, torch.Tensor | PairSettings) for t in tensors), (
            "tensors only, nothing of a modality"
        )
        calls += 1
        return preference_loss(*tensors)

    monkeypatch.setattr(engine, "preference_loss", watched)
    model.zero_grad()
    value = loss_of(case, name)
    assert calls == 1

    alone = [
        in_numpy(
            name,
            own_logp(adapter, model, reference, pair.chosen),
            own_logp(adapter, model, reference, pair.rejected),
        )
        for pair in pairs
    ]
    assert len({round(x, 6) for x in alone}) > 1, "equal pairs would prove little"
    assert value.item() == pytest.approx(np.mean(alone), rel=1e-5, abs=1e-6)

    value.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    squared = sum(float(g.double().square().sum()) for g in gradients.values())
    assert squared > 1e-8
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step = 1e-3 / squared**0.5
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in gradients:
                p.sub_(step * gradients[n])
        fell = value.item() - loss_of(case, name).item()
        for n, p in model.named_parameters():
            p.copy_(before[n])
    assert fell == pytest.approx(step * squared, rel=0.1), "the loss falls by what its gradient promises"
