"""A new word: it and the keys and values that read prompts train, nothing else moves by a bit; SPL and prior together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.config.load import load_config
from mmalign.config.personalise import PersonaliseConfig
from mmalign.engine.personalise import personalise_objective
from mmalign.errors import UserError
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.objectives.semantic import semantic_preservation_loss
from mmalign.pipeline.run import run_recipe
from mmalign.protocols import Personalises
from mmalign.rng import generator
from mmalign.types import Row

CLIP_FAMILIES = ("sd", "sdxl", "drawing")
CONFIG = PersonaliseConfig(class_word="red", prompt="a {word} square", class_prompt="a {class} square")
WORD = "<new>"


def opened(open_family: Callable[..., Any], family: str) -> Any:
    loaded = open_family(family, **({} if family == "drawing" else {"height": 16, "width": 16}))
    loaded.adapter.learn_word(loaded.model, word=WORD, like="red")
    return loaded


def words(model: Any) -> list[Any]:
    return [p for n, p in model.named_parameters() if n.endswith("token_embedding.row")]


@pytest.fixture
def concept(pictures: list[Row]) -> list[Row]:
    return [replace(row, prompt=f"a {WORD} square") for row in pictures]


@pytest.mark.parametrize("family", CLIP_FAMILIES)
def test_only_the_new_row_and_keys_and_values_move(
    family: str, open_family: Callable[..., Any], concept: list[Row]
) -> None:
    loaded = opened(open_family, family)
    assert isinstance(loaded.adapter, Personalises)
    model = loaded.model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trains = {name for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.1
    )
    loss_fn = personalise_objective(
        loaded.adapter, model, CONFIG, [replace(r, prompt="a red square") for r in concept[:1]]
    )
    for step in range(2):
        optimizer.zero_grad()
        loss_fn(concept, generator(step, "loss")).value.backward()
        optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trains
    assert all(
        name.endswith(("token_embedding.row", "attn2.to_k.weight", "attn2.to_v.weight")) for name in moved
    )
    assert len(words(model)) == (2 if family == "sdxl" else 1) < len(moved)


@pytest.mark.parametrize("family", CLIP_FAMILIES)
def test_spl_is_0_for_the_same_ids_and_its_gradient_is_on_the_new_row_alone(
    family: str, open_family: Callable[..., Any]
) -> None:
    loaded = opened(open_family, family)
    same = loaded.adapter.prompt_states(loaded.model, ["a red square", "a red square"])
    assert float(semantic_preservation_loss(same[:1], same[1:])[0].detach()) == pytest.approx(0.0, abs=1e-6)
    start = loaded.adapter.prompt_states(loaded.model, [f"a {WORD} square", "a red square"])
    assert torch.allclose(start[0], start[1], atol=1e-5), "the word starts as its class"
    with torch.no_grad():
        for row in words(loaded.model):
            row.add_(torch.randn(row.shape, generator=torch.Generator().manual_seed(0)) * row.std())
    prompts = [f"a {WORD} square", f"a blue {WORD} circle", f"{WORD}"]
    states = loaded.adapter.prompt_states(loaded.model, prompts)
    anchor = loaded.adapter.prompt_states(loaded.model, [prompt.replace(WORD, "red") for prompt in prompts])
    value, _ = semantic_preservation_loss(states, anchor)
    assert 0.0 < float(value.detach()) < 2.0 and states.shape[0] == 3
    value.backward()
    reached = {
        name for name, p in loaded.model.named_parameters() if p.grad is not None and bool(p.grad.any())
    }
    assert reached == {
        name for name, _ in loaded.model.named_parameters() if name.endswith("token_embedding.row")
    }


def test_the_state_is_the_end_tokens_although_the_new_id_is_higher(open_family: Callable[..., Any]) -> None:
    loaded = opened(open_family, "sd")
    pipeline = loaded.model.backbone.pipeline
    ids = pipeline.tokenizer(f"a {WORD} square", padding="max_length", return_tensors="pt").input_ids
    assert int(ids.argmax()) == 2, "where old configurations would pool"
    end = ids[0].tolist().index(pipeline.tokenizer.eos_token_id)
    hidden = pipeline.text_encoder(input_ids=ids).last_hidden_state[0, end]
    state = loaded.adapter.prompt_states(loaded.model, [f"a {WORD} square"])[0]
    assert end == 4 and torch.allclose(state, hidden / hidden.norm(), atol=1e-6)


@pytest.mark.parametrize("semantic", [0.0, 0.7])
@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_the_terms_add_up_whatever_is_switched_on(
    semantic: float, prior: float, open_family: Callable[..., Any], concept: list[Row]
) -> None:
    loaded = opened(open_family, "sd")
    with torch.no_grad():
        words(loaded.model)[0].mul_(-1.0)
    cfg = CONFIG.model_copy(update={"semantic_weight": semantic, "prior_weight": prior})
    kept = [replace(row, prompt="a red square") for row in concept]
    loss = personalise_objective(loaded.adapter, loaded.model, cfg, kept)(concept, generator(0, "loss"))
    metrics = {name: float(value) for name, value in loss.metrics.items()}
    assert ("prior_nll" in metrics) == (prior > 0) and ("semantic_loss" in metrics) == (semantic > 0)
    want = (
        metrics["nll"] + prior * metrics.get("prior_nll", 0.0) + semantic * metrics.get("semantic_loss", 0.0)
    )
    assert float(loss.value.detach()) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("family", CLIP_FAMILIES)
def test_the_owner_library_reads_the_word_back(
    family: str, open_family: Callable[..., Any], tmp_path: Path
) -> None:
    loaded = opened(open_family, family)
    with torch.no_grad():
        for row in words(loaded.model):
            row.mul_(-0.5)
    loaded.adapter.save(loaded.model, tmp_path / "saved")
    assert len(words(loaded.model)) == (2 if family == "sdxl" else 1), "still learning"
    again = type(loaded.model.backbone.pipeline).from_pretrained(tmp_path / "saved")
    assert WORD in again.tokenizer.get_vocab()
    table = again.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[again.tokenizer.convert_tokens_to_ids(WORD)], words(loaded.model)[0])
    fresh = type(loaded.adapter)(loaded.adapter.options)
    model = fresh.load(str(tmp_path / "saved"))
    prompts = [f"a {WORD} square", "a blue circle"]
    for name, value in model.condition(prompts, fresh.options).items():
        assert torch.allclose(value, loaded.model.condition(prompts, DiffusionOptions())[name], atol=1e-6)


@pytest.mark.parametrize(("family", "message"), [("pixart", "t5 encoder"), ("sd3", "t5 encoder|attn2")])
def test_other_encoders_are_refused(family: str, message: str, open_family: Callable[..., Any]) -> None:
    loaded = open_family(family)
    with pytest.raises(UserError, match=message):
        loaded.adapter.learn_word(loaded.model, word=WORD, like="red")


def test_unknown_classes_and_known_words_are_refused(open_family: Callable[..., Any]) -> None:
    loaded = open_family("sd")
    with pytest.raises(UserError, match="does not know 'purple'"):
        loaded.adapter.learn_word(loaded.model, word=WORD, like="purple")
    for word in ("green", "red"):
        with pytest.raises(UserError, match=f"knows '{word}' already"):
            loaded.adapter.learn_word(loaded.model, word=word, like="red")
    loaded.adapter.learn_word(loaded.model, word=WORD, like="red")
    with pytest.raises(UserError, match="knows '<new>' already"):
        loaded.adapter.learn_word(loaded.model, word=WORD, like="red")
    with pytest.raises(ValueError, match="word"):
        PersonaliseConfig(prompt="a photo")


def test_the_stage_resumes_to_the_same_word(
    folders: Callable[[str], Path], pictures: list[Row], tmp_path: Path
) -> None:
    for row in pictures:
        row.completion.save(tmp_path / f"{row.id}.png")
    lines = [{"id": row.id, "prompt": "x", "completion": str(tmp_path / f"{row.id}.png")} for row in pictures]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    flags = [
        "--modality=diffusion", f"--model.model_name_or_path={folders('sd')}", "--stages=[personalise]",
        "--guard.enabled=false", f"--data.train={tmp_path / 'rows.jsonl'}", "--personalise.class_word=red", "--personalise.start_word=two",
        "--personalise.prompt=a {word} square", "--personalise.class_prompt=a {class} square",
        "--personalise.n_prior=3", "--personalise.max_steps=4", "--personalise.save_steps=1",
        "--personalise.learning_rate=1e-3", '--model.options={"height": 16, "width": 16, "num_inference_steps": 3}',
    ]  # fmt: skip
    whole = run_recipe(load_config("toy", [*flags, f"--output_dir={tmp_path / 'whole'}"]))
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    config = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**config, "output_dir": str(part)}))
    stage = part / "stages" / "personalise"
    (stage / "done.json").unlink()
    shutil.rmtree(stage / "final")
    for checkpoint in stage.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > 2:
            shutil.rmtree(checkpoint)
    run_recipe(load_config("toy", [*flags, f"--output_dir={part}"]))
    assert (part / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {"nll", "prior_nll", "semantic_loss"} <= set(records[0])
    for file in (whole / "stages/personalise/final").rglob("*.safetensors"):
        other = stage / "final" / file.relative_to(whole / "stages/personalise/final")
        assert file.read_bytes() == other.read_bytes(), file.name
