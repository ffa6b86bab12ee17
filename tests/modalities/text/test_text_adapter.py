"""Any causal language model: log-probs of the owner library, sampling, short cuts, clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from text_families import NO_TEMPLATE

from mmalign.data.pairs import Pair
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.modalities.text import TextAdapter
from mmalign.objectives.preference import PairSettings
from mmalign.rng import generator
from mmalign.testing.conformance import modality_suite
from mmalign.types import Row, Speed

PLAIN = Speed(share_prefix=False, pack=False, cache_towers=False, compact_head=False, merge_lora=False)


def test_conformance(text_model: Any, text_rows: list[Row]) -> None:
    _, adapter, model = text_model
    assert {"batch", "save", "sampling"} <= set(modality_suite(adapter, text_rows, model))


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_equals_single_rows_of_the_owner_library(
    text_model: Any, text_rows: list[Row], side: Any
) -> None:
    name, adapter, model = text_model
    adapter.padding_side = side
    with torch.no_grad():
        together = adapter.logp(model, adapter.collate(text_rows))
        for index, row in enumerate(text_rows):
            turns = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else None
            if name in NO_TEMPLATE:
                prompt = adapter.processor(row.prompt)["input_ids"]
            else:
                flat = turns or [
                    {
                        **t,
                        "content": t["content"] if isinstance(t["content"], str) else t["content"][0]["text"],
                    }
                    for t in row.prompt
                ]
                text = adapter.processor.apply_chat_template(flat, add_generation_prompt=True, tokenize=False)
                prompt = adapter.processor(text, add_special_tokens=False)["input_ids"]
            answer = adapter._encoder.answer(row)
            ids = torch.tensor([prompt + answer])
            logits = torch.log_softmax(model(input_ids=ids).logits.float(), -1)[0]
            expected = logits[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None])[:, 0]
            torch.testing.assert_close(together.values[index, : len(answer)], expected, atol=1e-5, rtol=1e-5)


def test_greedy_equals_generate(text_model: Any) -> None:
    _, adapter, model = text_model
    row = Row("0", "Say something nice .")
    rollout = adapter.sample(model, [row], 1, generator(0), temperature=0.0, max_steps=12)
    prompt = adapter._prompt(row).ids[None]
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert rollout.rows[0].steps == out[0, prompt.shape[1] :].tolist()[: len(rollout.rows[0].steps)]


def test_short_cuts_keep_the_loss_and_its_gradient(text_model: Any) -> None:
    name, adapter, model = text_model
    row = Row("0", "Say something nice . there is a red circle .")
    pairs = [
        Pair(
            replace(row, id="a", completion="A cat"),
            replace(row, id="b", completion="there is a red circle ."),
        ),
        Pair(
            replace(row, id="c", prompt="Say", completion="A dog"),
            replace(row, id="d", prompt="Say", steps=[9]),
        ),
    ]
    reference = Reference(adapter, model, "copy")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator(3)))
    found = []
    for speed in (PLAIN, Speed()):
        adapter.speed = speed
        model.zero_grad()
        loss = pair_objective(adapter, model, reference, PairSettings())(pairs, generator(0))
        loss.value.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((loss.value.detach(), grads))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-5)
    assert float((found[1][1] - found[0][1]).norm() / found[0][1].norm()) < 1e-5
    expected = {"mistral": "slides", "gemma2": "softcap"}.get(name, "")
    assert expected in adapter.sharing.reason and bool(expected) == bool(adapter.sharing.reason)


def test_gradient_checkpointing_takes_the_padded_forward(text_folders: dict[str, Path]) -> None:
    """Layers that are computed again in the backward pass would no longer see the flat row's attention."""
    adapter = TextAdapter()
    model = adapter.load(str(text_folders["llama"])).train()
    rows = [Row("a", "Say", (), "A cat"), Row("b", "Say", (), "A dog ; and a bird !")]
    expected = adapter.logp(model, adapter.collate(rows)).values
    assert not adapter.sharing.reason
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(
        adapter.logp(model, adapter.collate(rows)).values, expected, atol=1e-5, rtol=1e-5
    )
    assert "checkpointing" in adapter.sharing.reason


def test_lora_trains_the_linear_layers(text_model: Any, text_rows: list[Row]) -> None:
    _, adapter, model = text_model
    tuned = adapter.attach_lora(model, r=2, alpha=4, target_modules="all-linear", seed=0)
    adapter.logp(tuned, adapter.collate(text_rows)).values.sum().backward()
    moved = [n for n, p in tuned.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert moved and all("lora_" in name for name in moved)


def test_foresight_reads_blended_embeddings(text_model: Any, text_rows: list[Row]) -> None:
    """A second forward of the owner library over hand-made embeddings gives the same log-probs, in both layouts."""
    _, adapter, model = text_model
    many = [text_rows[0], replace(text_rows[0], id="other", completion="A dog"), *text_rows[1:]]
    flat = adapter.logp_foreseen(model, adapter.collate(many), 0.3)
    plain = adapter.logp(model, adapter.collate(many)).values
    torch.testing.assert_close(
        adapter.logp_foreseen(model, adapter.collate(many), 0.0).values, plain, atol=1e-5, rtol=1e-5
    )
    adapter.speed = PLAIN
    padded = adapter.logp_foreseen(model, adapter.collate(many), 0.3)
    torch.testing.assert_close(flat.values, padded.values, atol=1e-5, rtol=1e-5)
    row = many[0]
    prompt, answer = adapter._prompt(row).ids, torch.tensor(adapter._encoder.answer(row))
    ids, start = torch.cat([prompt, answer])[None], len(prompt)
    embed = model.get_input_embeddings()
    with torch.no_grad():
        guess = model(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
        read = embed(ids)
        read[0, start:] = 0.7 * embed(answer) + 0.3 * embed(guess)
        logits = torch.log_softmax(model(inputs_embeds=read).logits[0, start - 1 : -1].float(), -1)
    expected = logits.gather(-1, answer[:, None])[:, 0]
    torch.testing.assert_close(padded.values[0, : len(answer)], expected, atol=1e-5, rtol=1e-5)
    assert float((padded.values - plain).abs().max()) > 1e-3


def test_conversation_without_a_template(text_folders: dict[str, Path]) -> None:
    adapter = TextAdapter()
    adapter.load(str(text_folders["gpt2"]))
    row = Row("7", [{"role": "user", "content": "Say"}], (), "A cat")
    with pytest.raises(UserError, match='row "7".*no chat template'):
        adapter.collate([row])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("a", "Say", ("picture.png",), "A cat"), "modality text cannot read; use modality: vision"),
        (Row("b", [], (), "A cat"), "non-empty list of messages"),
        (Row("c", [{"content": "x"}], (), "A cat"), 'needs "role" and "content"'),
        (Row("d", "Say", (), " "), "response is empty"),
    ],
)
def test_bad_rows(text_folders: dict[str, Path], row: Row, message: str) -> None:
    adapter = TextAdapter()
    adapter.load(str(text_folders["llama"]))
    with pytest.raises(UserError, match=f'row "{row.id}".*{message}'):
        adapter.collate([row])


def test_not_a_language_model(tmp_path: Path) -> None:
    import transformers as hf

    hf.CLIPConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match='not a causal language model: its type is "clip"'):
        TextAdapter().load(str(tmp_path / "clip"))
    with pytest.raises(UserError, match="does not exist"):
        TextAdapter().load(str(tmp_path / "no" / "such" / "folder"))


def test_a_batch_is_laid_out_by_itself_under_a_sliding_window(text_folders: dict[str, Path]) -> None:
    """A batch longer than the window is padded; the next short one is flat again, as it would be after a resume."""
    long = [Row(f"l{k}", "Say " * 12, (), "A cat and a bird and a dog ! " * 3) for k in range(2)]
    short = [Row(f"s{k}", "Say", (), "A cat ! A dog"[: 5 + 8 * k]) for k in range(2)]
    after, fresh = TextAdapter(), TextAdapter()
    model = after.load(str(text_folders["mistral"])).eval()
    fresh.load(str(text_folders["mistral"]))
    after.logp(model, after.collate(long))
    assert "slides" in after.sharing.reason
    batch = after.collate(short)
    assert "packed" in batch.inputs
    found = after.logp(model, batch).values
    assert not after.sharing.reason
    assert torch.equal(found, fresh.logp(model, fresh.collate(short)).values)
