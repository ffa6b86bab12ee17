"""The shipped starting models load with the Auto classes and are what their records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.worlds.scenes import (
    BASES,
    CAPTION_PROMPT,
    Fact,
    attribute_fact,
    generate,
    parse,
    relation_fact,
    render,
    verify,
)
from mmalign.worlds.scenes.corpus import IDS, PretrainPlan, batches, encode_turns, make_pool
from mmalign.worlds.scenes.model import (
    BASE,
    BASE1,
    IMAGE_TOKENS,
    make_model,
    make_processor,
)
from mmalign.worlds.scenes.pretrain import (
    forward,
    image_features,
    normalise,
    said_relations,
    said_values,
    train_language,
    train_vision,
)
from mmalign.worlds.scenes.probe import caption_scores, question_scores
from mmalign.worlds.scenes.ship import file_sha256, ship
from mmalign.worlds.scenes.words import CLASSES, RELATIONS

CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]}]


@pytest.mark.parametrize("folder", BASES, ids=lambda f: f.name)
def test_base_loads_and_matches_its_record(folder: Path) -> None:
    record = json.loads((folder / "README.json").read_text())
    weights = folder / "model.safetensors"
    assert file_sha256(weights) == record["weights_sha256"]
    assert weights.stat().st_size < 8_000_000
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 4_000_000
    assert "train_base.py" in record["command"] and record["plan"]["language_steps"] > 1000


def test_base_describes_a_picture() -> None:
    processor = AutoProcessor.from_pretrained(BASE)
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    scenes = [generate(i, "validation") for i in range(8)]
    batch = processor(text=[text] * 8, images=[render(s) for s in scenes], return_tensors="pt")
    assert ((batch["input_ids"] == processor.image_token_id).sum(1) == IMAGE_TOKENS).all()
    with torch.no_grad():
        out = model.generate(**batch, do_sample=False, max_new_tokens=110)
    answers = processor.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    sentences = [s for a in answers for s in parse(a)]
    assert sum(s.well_formed for s in sentences) / len(sentences) > 0.95
    assert caption_scores(scenes, answers)["sent_any"] < 0.5
    assert BASES == (BASE, BASE1)


def test_base_answers_questions() -> None:
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()
    scores = question_scores(model, [generate(i, "validation") for i in range(60)])
    assert scores["object"] > 0.8 and scores["relation"] > 0.7 and scores["adversarial"] > 0.75


def test_training_layout_equals_the_chat_template() -> None:
    processor = make_processor()
    turns = [("is there a circle ?", "yes"), ("where is the circle ?", "row two column three")]
    chat = []
    for k, (question, answer) in enumerate(turns):
        picture = [{"type": "image"}] if k == 0 else []
        chat.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": answer})
    text = processor.apply_chat_template(chat, tokenize=False)
    picture = render(generate(0, "train"))
    batch = processor(text=[text], images=[picture], return_tensors="pt")
    ids, weights = encode_turns(turns)
    assert batch["input_ids"][0].tolist() == ids
    said = processor.tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w > 0])
    assert said == "yes </s> row two column three </s>"
    question = encode_turns(turns[:1])[0][:-2]
    prompt = processor.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert (
        processor(text=[prompt], images=[picture], return_tensors="pt")["input_ids"][0].tolist() == question
    )


def test_training_forward_equals_the_models_own() -> None:
    model, processor = make_model(0, width=32, vision_layers=1, text_layers=2).eval(), make_processor()
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    batch = processor(text=[text], images=[render(generate(1, "train"))], return_tensors="pt")
    pool = make_pool(1, 0)
    with torch.no_grad():
        own = model(**batch).logits
        ours = model.lm_head(forward(model, batch["input_ids"], image_features(model, batch["pixel_values"])))
        pixels = processor.image_processor(images=[render(pool.scenes[0])], return_tensors="pt")[
            "pixel_values"
        ]
    assert torch.allclose(own, ours, atol=1e-5)
    assert torch.allclose(normalise(pool.pixels), pixels, atol=1e-6)


def test_grounding_judges_statements_as_the_scene_does() -> None:
    pool, words = make_pool(300, 1), {i: w for w, i in IDS.items()}
    plan, seen = PretrainPlan(seed=1, mix=(0.5, 0.0, 0.5)), set[tuple[str, bool]]()
    stream = batches(pool, plan)
    for _ in range(6):
        index, ids, _ = next(stream)
        for kind, judge in (("value", said_values), ("relation", said_relations)):
            for row, col, truth in zip(*judge(ids, pool.classes[index]), strict=True):
                said = [words[int(i)] for i in ids[int(row), : int(col) + 1]]
                scene = pool.scenes[int(index[row])]
                assert verify(_statement(said, kind), scene) == (1 if truth else -1)
                seen.add((kind, bool(truth)))
    assert len(seen) == 4


def _statement(said: list[str], kind: str) -> Fact:
    """The fact that the words just completed, read backwards."""
    if kind == "value" and said[-1] in CLASSES:
        return attribute_fact(said[-1], said[-2])
    if kind == "value":
        return attribute_fact(next(w for w in reversed(said) if w in CLASSES), said[-1])
    first = next(w for w in reversed(said[:-1]) if w in CLASSES)
    relation = next(r for r in RELATIONS if said[-2 - len(r.split()) : -2] == r.split())
    return relation_fact(first, relation, said[-1])


def test_both_phases_learn_and_the_result_ships(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = PretrainPlan(scenes=64, vision_steps=60, vision_batch=16, language_steps=12, batch=8)
    model, lines = make_model(0, width=32, vision_layers=1, text_layers=2), list[str]()
    pool = make_pool(plan.scenes, plan.seed)
    assert ((pool.cells[:, :, 0] < 8).sum(1) == torch.tensor([len(s.objects) for s in pool.scenes])).all()
    for scene, table in zip(pool.scenes, pool.classes, strict=True):
        for cls, (count, cell, *_) in zip(CLASSES, table.tolist(), strict=True):
            assert count == min(scene.count(cls), 3)
            assert (cell >= 0) == (scene.count(cls) == 1)
            assert cell < 0 or CLASSES[int(pool.cells[pool.scenes.index(scene), cell, 0])] == cls
    scores = train_vision(model, pool, plan, lines.append)
    assert scores["color"] > 0.4
    steps: list[int] = []
    train_language(model, pool, plan, lines.append, steps.append)
    assert steps == list(range(1, 13)) and lines
    assert not model.model.language_model.layers[0]._forward_hooks
    digest = ship(model, tmp_path, {"command": "test"})
    assert json.loads((tmp_path / "README.json").read_text())["weights_sha256"] == digest
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
