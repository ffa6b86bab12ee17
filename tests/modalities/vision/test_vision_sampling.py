"""The hand-written key-value loop: same tokens as ``generate``, same log-probs as training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmalign.errors import UserError
from mmalign.modalities.tokens import sampling
from mmalign.rng import generator
from mmalign.types import Rollout, Row


def draw(loaded: Any, rows: list[Row], n: int = 2, **options: Any) -> Rollout:
    return loaded.adapter.sample(loaded.model, rows, n, generator(3, "draw"), **{"max_steps": 16, **options})


def unanswered(rows: list[Row]) -> list[Row]:
    return [replace(row, completion=None) for row in rows]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_behaviour_logp_equals_training_forward(loaded: Any, rows: list[Row], temperature: float) -> None:
    rollout = draw(loaded, unanswered(rows), n=3, temperature=temperature)
    with torch.no_grad():
        out = loaded.adapter.logp(loaded.model, loaded.adapter.collate(rollout.rows), temperature=temperature)
    assert torch.equal(out.mask, rollout.mask)
    assert float(((out.values - rollout.logp).abs() * rollout.mask).max()) < 1e-5
    assert rollout.group.tolist() == [index for index in range(len(rows)) for _ in range(3)]


def test_greedy_equals_generate(loaded: Any, rows: list[Row]) -> None:
    rollout = draw(loaded, unanswered(rows), n=1, temperature=0.0, max_steps=24)
    for row, answered in zip(unanswered(rows), rollout.rows, strict=True):
        batch = loaded.adapter.collate([replace(row, steps=[5])])
        inputs = {name: value for name, value in batch.inputs.items() if name != "start"}
        for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, :-1]
        out = loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False)
        assert out[0, inputs["input_ids"].shape[1] :].tolist() == answered.steps, row.id


def test_same_generator_same_answers_whatever_the_batch(loaded: Any, rows: list[Row]) -> None:
    prompts = unanswered(rows)
    first = draw(loaded, prompts)
    loaded.adapter.sample_batch = 2
    second = draw(loaded, prompts)
    assert [row.steps for row in first.rows] == [row.steps for row in second.rows]
    torch.testing.assert_close(first.logp, second.logp, atol=1e-5, rtol=0)
    other = loaded.adapter.sample(loaded.model, prompts, 2, generator(4, "draw"), max_steps=16)
    assert [row.steps for row in first.rows] != [row.steps for row in other.rows]


def test_one_stream_per_row(llava: Any, llava_rows: list[Row]) -> None:
    prompts = unanswered(llava_rows)
    streams = [generator(0, row.id) for row in prompts]
    together = llava.adapter.sample(llava.model, prompts, 2, streams, max_steps=12)
    alone = llava.adapter.sample(llava.model, prompts[2:3], 2, [generator(0, prompts[2].id)], max_steps=12)
    assert [row.steps for row in together.rows[4:6]] == [row.steps for row in alone.rows]


def test_nothing_to_sample(llava: Any) -> None:
    with pytest.raises(UserError, match="nothing to sample"):
        llava.adapter.sample(llava.model, [], 1, generator(0))


def test_global_random_state_is_untouched(llava: Any, llava_rows: list[Row]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    draw(llava, unanswered(llava_rows))
    assert torch.equal(before, torch.random.get_rng_state())


def test_finished_rows_end_with_their_stop_token(
    loaded: Any, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = loaded.adapter._encoder
    free = draw(loaded, unanswered(rows), n=4)
    common = torch.tensor([token for row in free.rows for token in row.steps]).mode().values
    encoder.stop_ids = (*encoder.stop_ids, int(common))
    ended = draw(loaded, unanswered(rows), n=4)
    assert bool(ended.finished.any()) and not bool(ended.finished.all())
    for row, done, mask in zip(ended.rows, ended.finished.tolist(), ended.mask, strict=True):
        assert int(mask.sum()) == len(row.steps)
        assert (row.steps[-1] in encoder.stop_ids) == done
        assert not set(row.steps[:-1]) & set(encoder.stop_ids)
    for row, full in zip(ended.rows, free.rows, strict=True):
        assert row.steps == full.steps[: len(row.steps)]
    monkeypatch.setattr(sampling, "_KEEP", 0.0)
    kept = draw(loaded, unanswered(rows), n=4)
    assert [row.steps for row in kept.rows] == [row.steps for row in ended.rows]
    with torch.no_grad():
        out = loaded.adapter.logp(loaded.model, loaded.adapter.collate(ended.rows))
    assert float(((out.values - ended.logp).abs() * ended.mask).max()) < 1e-5


def test_placeholders_are_never_drawn(loaded: Any, rows: list[Row]) -> None:
    banned = loaded.adapter._forbidden
    head = loaded.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[banned] = 10 * head.weight.abs().max()
    rollout = draw(loaded, unanswered(rows[:2]), n=8, temperature=2.0)
    drawn = {token for row in rollout.rows for token in row.steps}
    assert not drawn & set(banned.tolist())


def test_tokens_follow_the_distribution(llava: Any, llava_rows: list[Row]) -> None:
    row = replace(llava_rows[0], completion=None)
    llava.adapter.sample_batch = 4096
    rollout = llava.adapter.sample(llava.model, [row], 4000, generator(0), max_steps=1)
    counts = torch.bincount(torch.tensor([r.steps[0] for r in rollout.rows]), minlength=380).double()
    values = rollout.logp[:, 0].double()
    seen = counts > 0
    frequency = counts[seen] / counts.sum()
    logp = torch.stack(
        [values[[r.steps[0] == int(t) for r in rollout.rows]][0] for t in seen.nonzero()[:, 0]]
    )
    error = (frequency - logp.exp()).abs() / (logp.exp() * (1 - logp.exp()) / 4000).sqrt()
    assert float(error.max()) < 4.5


def test_training_flag_is_restored_and_no_graph_is_kept(llava: Any, llava_rows: list[Row]) -> None:
    llava.model.train()
    rollout = draw(llava, unanswered(llava_rows))
    assert llava.model.training and not rollout.logp.requires_grad


def test_answers_carry_text_and_segments(loaded: Any, rows: list[Row]) -> None:
    tokenizer = loaded.adapter.processor.tokenizer
    rollout = draw(loaded, unanswered(rows), n=2, max_steps=40)
    for row in rollout.rows:
        assert row.completion == tokenizer.decode(
            row.steps, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for piece in row.segments:
            assert 0 <= piece.start < piece.end <= len(row.steps)
            assert row.completion[piece.char_start : piece.char_end] == piece.text
        assert all(a.end == b.start for a, b in zip(row.segments, row.segments[1:], strict=False))
