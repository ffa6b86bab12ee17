"""How the nets of the tunes world are trained: layout, loss and drawing against the owner library, exact resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.worlds.tunes.captions import CaptionNoise
from mmalign.worlds.tunes.codec import CODES, BandCodec
from mmalign.worlds.tunes.corpus import batch_places, caption_ids, labels_of, make_pool, to_ids
from mmalign.worlds.tunes.fitting import fit, rate_at
from mmalign.worlds.tunes.model import BASE, COLUMNS, make_model, make_tokenizer
from mmalign.worlds.tunes.pretrain import code_loss, delayed, draw, text_states
from mmalign.worlds.tunes.ship import file_sha256, ship
from mmalign.worlds.tunes.tune import ATTRIBUTES, tune_at

CAPTIONS = ["a sad , low tune on the flute", "music , quick", "the bell plays something soft and high"]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(3, width=32, layers=2, text_width=16, text_layers=1, init_std=0.3)


@pytest.fixture(scope="module")
def encoded() -> tuple[Tensor, Tensor]:
    return to_ids(CAPTIONS)


def test_captions_are_encoded_as_the_tokenizer_does(encoded: tuple[Tensor, Tensor]) -> None:
    theirs = make_tokenizer()(CAPTIONS, padding=True, return_tensors="pt")
    assert torch.equal(encoded[0], theirs["input_ids"]) and torch.equal(encoded[1], theirs["attention_mask"])


def test_the_pattern_is_the_owner_librarys(model: Any) -> None:
    codes = torch.arange(2 * 6 * 25).view(2, 6, 25) % CODES
    tokens, real = delayed(codes)
    start = torch.full((12, 1), CODES)
    _, mask = model.decoder.build_delay_pattern_mask(start, CODES, COLUMNS)
    theirs = mask.view(2, 6, COLUMNS)
    assert tokens.shape == theirs.shape
    assert torch.equal(theirs == CODES, ~real)  # -1 is what they draw
    assert all(torch.equal(tokens[:, k, k + 1 : k + 26], codes[:, k]) for k in range(6))


def test_the_loss_is_the_cross_entropy_of_the_whole_model(model: Any, encoded: tuple[Tensor, Tensor]) -> None:
    ids, mask = encoded
    codes = torch.randint(CODES, (3, 6, 25), generator=torch.Generator().manual_seed(0))
    null = torch.tensor([False, True, False])
    found = code_loss(model, codes, ids, mask, null).detach()
    tokens, real = delayed(codes)
    states = text_states(model, ids, mask, null)
    assert (states[1] == 0).all() and (states[0] != 0).any()
    seen = mask.clone()
    seen[1] = 0  # how the owner's guidance leaves a caption out
    logits = model.decoder(
        input_ids=tokens[..., :-1].flatten(0, 1), encoder_hidden_states=states, encoder_attention_mask=seen
    ).logits.view(3, 6, -1, CODES)
    logp = torch.log_softmax(logits, -1).detach()
    for k in range(6):
        values = [
            -float(logp[b, k, t, tokens[b, k, t + 1]])
            for b in range(3)
            for t in range(tokens.shape[2] - 1)
            if real[b, k, t + 1]
        ]
        assert float(found[k]) == pytest.approx(sum(values) / len(values), rel=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_drawing_is_the_owner_librarys_generate(
    model: Any, encoded: tuple[Tensor, Tensor], guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[Tensor] = []

    def decode(codes: Tensor, **_: Any) -> Any:
        caught.append(codes[0])
        return SimpleNamespace(audio_values=torch.zeros(3, 1, 1))

    monkeypatch.setattr(model.audio_encoder, "decode", decode)
    ids, mask = encoded
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        guidance_scale=guidance if guidance > 1 else None,
        max_length=COLUMNS,
    )
    ours = draw(model, ids, mask, torch.Generator().manual_seed(0), temperature=1e-4, guidance=guidance)
    assert ours.shape == (3, 6, 25) and torch.equal(caught[0], ours)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    assert torch.equal(batch_places(50, 8, 1, 2, "x"), batch_places(50, 8, 1, 2, "x"))
    assert not torch.equal(batch_places(50, 8, 1, 2, "x"), batch_places(50, 8, 1, 3, "x"))
    tunes = [tune_at("train", 0, i) for i in range(4)]
    assert torch.equal(
        caption_ids(tunes, CaptionNoise(), 0, 5)[0], caption_ids(tunes, CaptionNoise(), 0, 5)[0]
    )


def test_pools_and_labels_say_what_the_pieces_are() -> None:
    pool = make_pool("test", 3, 0, "rows", first=2)
    assert pool.tunes == tuple(tune_at("test", 0, i, "rows") for i in (2, 3, 4))
    for tune, label in zip(pool.tunes, labels_of(pool.tunes).tolist(), strict=True):
        assert [list(v)[i] for v, i in zip(ATTRIBUTES.values(), label, strict=True)] == list(
            tune.attributes.values()
        )


def regression(stop_at: int | None = None) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss_at(step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        stream = torch.Generator().manual_seed(step)
        x = torch.randn((8, 3), generator=stream)
        return (model(x).squeeze() - x.sum(1)).pow(2).mean()

    return model, loss_at


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    straight, loss = regression()
    fit(straight, loss, steps=40, lr=0.05)
    stopped, loss = regression(stop_at=27)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, loss, steps=40, lr=0.05, checkpoint=tmp_path / "s.pt", every=10)
    again, loss = regression()
    fit(again, loss, steps=40, lr=0.05, checkpoint=tmp_path / "s.pt", every=10)
    assert torch.equal(straight.weight, again.weight) and torch.equal(straight.bias, again.bias)  # type: ignore[arg-type]
    assert not torch.equal(straight.weight, regression()[0].weight)  # type: ignore[arg-type]


def test_a_run_may_change_length_until_its_rate_decays(tmp_path: Path) -> None:
    model, loss = regression(stop_at=11)
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, steps=400, lr=0.05, checkpoint=tmp_path / "s.pt", every=10)
    shorter, loss = regression()
    fit(shorter, loss, steps=20, lr=0.05, checkpoint=tmp_path / "s.pt", every=10)
    straight, loss = regression()
    fit(straight, loss, steps=20, lr=0.05)
    assert torch.equal(shorter.weight, straight.weight)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="decays already"):
        fit(shorter, loss, steps=30, lr=0.05, checkpoint=tmp_path / "s.pt")


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99:750] == [1.0] * 651
    assert rates[750:] == sorted(rates[750:], reverse=True) and 0 < rates[-1] < 0.01


def test_a_shipped_folder_is_whole(model: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MusicgenForConditionalGeneration

    codec = BandCodec.load(BASE)
    digest = ship(model, codec, tmp_path / "out", {"why": "a test"})
    assert digest == file_sha256(tmp_path / "out" / "model.safetensors")
    again = MusicgenForConditionalGeneration.from_pretrained(tmp_path / "out")
    names = dict(model.named_parameters())
    assert all(torch.equal(part, names[name]) for name, part in again.named_parameters())
    text = CAPTIONS[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(text)["input_ids"] == to_ids([text])[0][0].tolist()
    assert not list(tmp_path.glob(".out-*"))
