"""Sampling: streams of its own for every row, recorded steps, settings, caches, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.data.content import answer_digest
from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.modalities.diffusion import DiffusionAdapter
from mmalign.modalities.diffusion.policy import policy_of
from mmalign.rng import generator
from mmalign.types import Row, Speed


def test_a_picture_depends_on_its_own_stream_alone(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family("sd", sample_batch=64)
    streams = {row.id: row.id for row in prompts}

    def draw(rows: list[Row]) -> Mapping[str, str]:
        out = loaded.adapter.sample(loaded.model, rows, 1, [generator(0, streams[row.id]) for row in rows])
        return {row.id: np.asarray(row.completion) for row in out.rows}  # type: ignore[misc]

    together, backward = draw(prompts), draw(prompts[::-1])
    alone = draw(prompts[1:2])
    for key, picture in backward.items():
        assert np.array_equal(picture, together[key])
    assert np.array_equal(alone["row-1"], together["row-1"])


@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_batch_size_changes_nothing(
    size: int, open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    want = open_family("sd").adapter
    loaded = open_family("sd", sample_batch=size)
    got = loaded.adapter.sample(loaded.model, prompts, 2, generator(1))
    want = want.sample(loaded.model, prompts, 2, generator(1))
    torch.testing.assert_close(got.logp, want.logp, atol=1e-5, rtol=1e-5)
    assert [row.steps.index.tolist() for row in got.rows] == [row.steps.index.tolist() for row in want.rows]


def test_a_fraction_of_the_random_steps_is_recorded(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    """Steps recorded apart have the scores they have in the whole chain; the flow's last step is never among them."""
    whole, part = (
        open_family("sd3", num_inference_steps=6),
        open_family("sd3", num_inference_steps=6, train_fraction=0.4),
    )
    full = whole.adapter.sample(whole.model, prompts, 4, generator(2))
    some = part.adapter.sample(part.model, prompts, 4, generator(2))
    assert full.logp.shape == (12, 5) and some.logp.shape == (12, 2)
    assert all(row.steps.index.tolist() == [0, 1, 2, 3, 4] for row in full.rows)
    places = {tuple(row.steps.index.tolist()) for row in some.rows}
    assert len(places) > 2 and all(list(place) == sorted(place) for place in places)
    first = some.rows[0].steps
    chain = whole.adapter.sample(whole.model, prompts[:1], 1, generator(2)).rows[0].steps
    torch.testing.assert_close(first.before, chain.before[first.index])
    torch.testing.assert_close(first.after, chain.after[first.index])


def test_only_the_first_steps_are_recorded_until_a_share(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    """``train_until`` leaves the last steps out; pictures and the scores of what is kept stay as they were."""
    whole = open_family("drawing", num_inference_steps=6)
    early = open_family("drawing", num_inference_steps=6, train_until=0.5)
    full = whole.adapter.sample(whole.model, prompts, 2, generator(2))
    some = early.adapter.sample(early.model, prompts, 2, generator(2))
    assert all(row.steps.index.tolist() == [0, 1, 2] for row in some.rows)
    torch.testing.assert_close(some.logp, full.logp[:, :3], atol=1e-6, rtol=1e-6)
    for one, other in zip(some.rows, full.rows, strict=True):
        assert np.array_equal(np.asarray(one.completion), np.asarray(other.completion))


def test_the_flow_of_a_noise_model_draws_ddims_pictures(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    """Where the schedule ends in the picture itself; that of Stable Diffusion ends a little before it."""
    ddim, flow = open_family("drawing"), open_family("drawing", sampler="sde")
    want, got = (
        one.adapter.sample(one.model, prompts, 1, generator(3), temperature=0.0) for one in (ddim, flow)
    )
    for one, other in zip(want.rows, got.rows, strict=True):
        gap = np.abs(np.asarray(one.completion, dtype=float) - np.asarray(other.completion, dtype=float))
        assert gap.max() <= 1


@pytest.mark.parametrize("name", ["sd", "drawing"])
def test_the_flow_of_a_noise_model_scores_its_own_steps(
    name: str, open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    flow = open_family(name, sampler="sde")
    drawn = flow.adapter.sample(flow.model, prompts, 2, generator(3))
    scored = flow.adapter.logp(flow.model, flow.adapter.collate(drawn.rows))
    assert drawn.logp.shape == (6, 3)
    torch.testing.assert_close(scored.values, drawn.logp, atol=1e-5, rtol=1e-5)


def test_temperature_zero_repeats_and_scores_its_path(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family("sd")
    one, two = (
        loaded.adapter.sample(loaded.model, prompts, 1, generator(4), temperature=0.0) for _ in range(2)
    )
    assert [answer_digest(row.steps) for row in one.rows] == [answer_digest(row.steps) for row in two.rows]
    scored = loaded.adapter.logp(loaded.model, loaded.adapter.collate(one.rows), temperature=0.0)
    torch.testing.assert_close(scored.values, one.logp, atol=1e-5, rtol=1e-5)
    drawn = loaded.adapter.sample(loaded.model, prompts, 1, generator(4))
    assert not torch.equal(drawn.rows[0].steps.after, one.rows[0].steps.after)


@pytest.mark.parametrize(("name", "options"), [("sd", {"eta": 0.0}), ("sd3", {"sampler": "ode"})])
def test_a_sampler_without_noise_draws_and_is_not_scored(
    name: str, options: dict[str, Any], open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family(name, **options)
    rollout = loaded.adapter.sample(loaded.model, prompts, 1, generator(0))
    assert rollout.mask.shape == (3, 0)
    with pytest.raises(UserError, match="every step of these answers is deterministic"):
        loaded.adapter.logp(loaded.model, loaded.adapter.collate(rollout.rows))
    loaded.adapter.configure({**options, "score": "denoising"})
    assert loaded.adapter.logp(loaded.model, loaded.adapter.collate(rollout.rows)).surrogate


def test_caches_change_no_number_and_notice_new_weights(
    open_family: Callable[..., Any], pictures: list[Row]
) -> None:
    loaded = open_family("sd", draws=2)
    policy, adapter = policy_of(loaded.model), loaded.adapter
    calls = {"text": 0, "vae": 0}
    policy.text_encoder.register_forward_hook(lambda *_: calls.__setitem__("text", calls["text"] + 1))
    policy.vae.encoder.register_forward_hook(lambda *_: calls.__setitem__("vae", calls["vae"] + 1))

    def score() -> torch.Tensor:
        return adapter.logp(loaded.model, adapter.collate(pictures), generator(0)).values

    kept = [score(), score()]
    assert calls == {"text": 3, "vae": 3}
    adapter.speed = Speed(cache_towers=False)
    plain = [score(), score()]
    assert calls == {"text": 9, "vae": 9}
    assert all(torch.equal(one, kept[0]) for one in (*kept, *plain))
    adapter.speed = Speed()
    score()
    with torch.no_grad():
        policy.text_encoder.get_input_embeddings().weight.mul_(0.5)
        policy.vae.encoder.conv_in.weight.mul_(0.5)
    assert not torch.allclose(score(), kept[0], atol=1e-6)
    assert calls == {"text": 15, "vae": 15}
    policy.text_encoder.requires_grad_(True)
    score().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in policy.text_encoder.parameters())


def test_draws_average_and_weights_are_those_of_the_targets(
    open_family: Callable[..., Any], pictures: list[Row]
) -> None:
    def score(**options: Any) -> torch.Tensor:
        loaded = open_family("sd", **options)
        batch = loaded.adapter.collate(pictures[:1])
        rng = generator(0)
        return loaded.adapter.logp(loaded.model, batch, rng).values[0, 0].detach()

    singles = []
    loaded, rng = open_family("sd"), generator(0)
    for _ in range(3):
        singles.append(
            loaded.adapter.logp(loaded.model, loaded.adapter.collate(pictures[:1]), rng).values[0, 0].detach()
        )
    torch.testing.assert_close(score(draws=3), torch.stack(singles).mean())
    place = int(torch.randint(1000, (), generator=generator(0)))
    level = policy_of(loaded.model).schedule.alphas[place]
    snr, native = level / (1 - level), score()
    torch.testing.assert_close(score(weighting="sample"), native / snr)
    torch.testing.assert_close(score(weighting="v_prediction"), native * (snr + 1) / snr)
    torch.testing.assert_close(score(weighting="min_snr", snr_gamma=0.1), native * snr.clamp(max=0.1) / snr)


def test_dropped_prompts_score_as_the_empty_one(open_family: Callable[..., Any], pictures: list[Row]) -> None:
    loaded = open_family("sd", prompt_dropout=1.0)
    dropped = loaded.adapter.logp(loaded.model, loaded.adapter.collate(pictures), generator(0)).values
    loaded.adapter.configure({})
    blank = [loaded.adapter.blank(row) for row in pictures]
    assert torch.equal(
        dropped, loaded.adapter.logp(loaded.model, loaded.adapter.collate(blank), generator(0)).values
    )
    assert not torch.equal(
        dropped, loaded.adapter.logp(loaded.model, loaded.adapter.collate(pictures), generator(0)).values
    )


def test_guard_stops_a_pipeline_whose_text_is_zeroed(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family("sd")
    report = check_modality_used(loaded.adapter, loaded.model, prompts)
    assert report.share_blank == 1.0 and report.share_shuffled == 1.0
    with torch.no_grad():
        for part in policy_of(loaded.model).text_encoder.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.weight.zero_()
                part.bias.zero_()
    with pytest.raises(UserError, match="the model ignores its conditions"):
        check_modality_used(loaded.adapter, loaded.model, prompts)


def test_unknown_and_unfitting_settings_are_named(folders: Callable[[str], Any]) -> None:
    adapter = DiffusionAdapter()
    with pytest.raises(UserError, match="unknown key 'guidance' \\(did you mean \"guidance_scale\"\\?\\)"):
        adapter.configure({"guidance": 2.0})
    for name in ("train_fraction", "train_until"):
        with pytest.raises(UserError, match=name):
            adapter.configure({name: 0.0})
    adapter.configure({"sampler": "ddim"})
    with pytest.raises(UserError, match="matches flows, which have no DDIM step"):
        adapter.load(str(folders("sd3")))
    adapter.configure({"height": 15})
    adapter.load(str(folders("sd")))
    with pytest.raises(UserError, match="multiples of 2"):
        adapter.collate([Row(id="x", prompt="a", completion=Image.new("RGB", (16, 16)))])


def test_sources_that_are_no_pipeline_are_refused(tmp_path: Any) -> None:
    adapter = DiffusionAdapter()
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        adapter.load(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionInpaintPipeline"}')
    with pytest.raises(UserError, match='did you mean "StableDiffusionPipeline"'):
        adapter.load(str(tmp_path))


def test_rows_without_a_picture_and_mixed_batches_are_refused(
    open_family: Callable[..., Any], prompts: list[Row], pictures: list[Row]
) -> None:
    loaded = open_family("sd")
    with pytest.raises(UserError, match='row "row-0": it has no picture'):
        loaded.adapter.collate(prompts)
    drawn = loaded.adapter.sample(loaded.model, prompts, 1, generator(0)).rows
    with pytest.raises(UserError, match='row "row-1": a batch holds drawn steps or given pictures'):
        loaded.adapter.collate([drawn[0], pictures[1]])
    with pytest.raises(UserError, match="drawn in 4 steps, the first in 9"):
        loaded.adapter.collate([replace(drawn[0], steps=replace(drawn[0].steps, num_steps=9)), drawn[1]])


def test_pictures_are_shown(open_family: Callable[..., Any], pictures: list[Row]) -> None:
    shown = open_family("sd").adapter.show(pictures[0])
    assert shown["text"] == pictures[0].prompt and shown["images"][0].startswith(b"\x89PNG")
