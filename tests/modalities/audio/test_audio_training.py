"""The core's loops and objectives on codes of music: nothing in them knows that a step is a tuple."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from music_models import codes, make_rows, sound

import mmalign.engine.pairs as engine
from mmalign.data.pairs import pair_of
from mmalign.engine.critic import Critic
from mmalign.engine.loop import LoopState, run_loop
from mmalign.engine.online import KLCoefficient, OnlineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.reference import Reference, row_key
from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.modalities.audio import AudioAdapter
from mmalign.objectives.preference import PairSettings
from mmalign.objectives.sft import nll_loss
from mmalign.rng import generator
from mmalign.types import Rollout, Row, StepReward
from tests.engine.settings import ListSink, loop_arguments, ppo_settings

PROMPTS = [Row(str(k), text) for k, text in enumerate(("a bright piano", "slow bass", "fast dark", "loud"))]


class EvenCodes:
    """The share of even codes, paid on the last step."""

    def __call__(self, rollout: Rollout) -> StepReward:
        total = torch.zeros_like(rollout.logp)
        for place, row in enumerate(rollout.rows):
            total[place, -1] = (torch.tensor(row.steps) % 2 == 0).float().mean()
        return StepReward(total, {"even": total.clone()})


def trainer(folder: Path, **changes: Any) -> OnlineTrainer:
    adapter = AudioAdapter()
    adapter.configure({"guidance_scale": 1.5, "frames": 5})
    whole = adapter.load(str(folder))
    model = adapter.attach_lora(whole, r=4, alpha=8, target_modules="all-linear", seed=0)
    base = dict(
        advantage="grpo", num_generations=4, rollout_batch_size=4, per_device_train_batch_size=16, num_ppo_epochs=1,
        num_minibatches=1, learning_rate=3e-2, kl_coef=0.01, kl_estimator="k3", kl_placement="loss", temperature=0.9,
        reference="auto", kl_stop=100.0, max_completion_length=8,
    )  # fmt: skip
    cfg = ppo_settings(**(base | changes))
    modules: dict[str, Any] = {"policy": model}
    critic = None
    if cfg.advantage == "gae":
        critic = modules["critic"] = Critic(32, width=16, seed=0)
    groups = {name: [p for p in part.parameters() if p.requires_grad] for name, part in modules.items()}
    kl = KLCoefficient(cfg.kl_coef)
    state = LoopState(modules, make_optimizer(groups, dict.fromkeys(groups, cfg.learning_rate)), {"kl": kl})
    reference = Reference(adapter, model, cfg.reference)
    return OnlineTrainer(adapter, model, reference, EvenCodes(), critic, PROMPTS, cfg, state, kl, "grpo", 0)


def run(made: OnlineTrainer, folder: Path, steps: int, sink: ListSink) -> dict[str, torch.Tensor]:
    run_loop(made.step, made.state, **{**loop_arguments(folder, sink, steps), "name": "grpo"})
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def test_grpo_raises_its_reward_and_resumes_bit_for_bit(music_folder: Path, tmp_path: Path) -> None:
    whole, parts = ListSink(), ListSink()
    weights = run(trainer(music_folder), tmp_path / "whole", 10, whole)
    rewards = [record["rewards/mean"] for _, record in whole.records]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.1, rewards
    first = whole.records[0][1]
    assert first["approx_kl"] < 1e-6 and abs(first["kl"]) < 1e-4, "the ratio is 1 before the first update"
    assert whole.records[-1][1]["kl"] > 0.01

    dying = trainer(music_folder)

    class Killed(Exception):
        pass

    def dies(step: int) -> Any:
        metrics = dying.step(step)
        if step == 5:
            parts.log(metrics, step)
            raise Killed
        return metrics

    with pytest.raises(Killed):
        run_loop(dies, dying.state, **{**loop_arguments(tmp_path / "parts", parts, 10), "name": "grpo"})
    resumed = run(trainer(music_folder), tmp_path / "parts", 10, parts)
    assert parts.records == whole.records
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())


def test_ppo_with_a_critic_over_tuples(music_folder: Path, tmp_path: Path) -> None:
    sink = ListSink()
    made = trainer(music_folder, advantage="gae", num_generations=1, kl_placement="reward", kl_estimator="k1")
    run(made, tmp_path, 3, sink)
    assert [record["completion_length"] for _, record in sink.records] == [8.0] * 3
    assert all(torch.isfinite(torch.tensor(list(record.values()))).all() for _, record in sink.records)
    assert sink.records[-1][1]["value_loss"] > 0


def test_offline_objectives_learn_from_codes_and_sounds(music: Any) -> None:
    """SFT, DPO and KTO through the engine's own functions: a step against the gradient lowers each loss."""
    adapter, model = music.adapter, music.model
    reference = Reference(adapter, model, "copy")
    rows = make_rows()
    pairs = [pair_of(Row("p", "bright piano", chosen=sound(0), rejected=sound(1)))]
    judged = [(rows[0], True), (rows[1], False), (rows[3], True)]
    dpo = engine.pair_objective(adapter, model, reference, PairSettings(("sigmoid",), beta=0.1))
    kto = engine.kto_objective(adapter, model, reference, beta=0.1)

    def sft() -> torch.Tensor:
        scored = adapter.logp(model, adapter.collate(rows))
        return nll_loss(scored.values, scored.mask)

    def loss_of(name: str) -> torch.Tensor:
        if name == "sft":
            return sft()
        return dpo(pairs, generator(0)).value if name == "dpo" else kto(judged, generator(0)).value

    for name in ("sft", "dpo", "kto"):
        model.zero_grad()
        before = loss_of(name)
        before.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert not any(n.startswith("audio_encoder") for n in grads)
        squared = sum(float(g.double().square().sum()) for g in grads.values())
        kept = {n: p.detach().clone() for n, p in model.named_parameters()}
        step = 1e-3 / squared**0.5
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in grads:
                    p.sub_(step * grads[n])
            fell = float(before - loss_of(name))
            for n, p in model.named_parameters():
                p.copy_(kept[n])
        if name == "kto":
            assert fell > 0.2 * step * squared, "its reference point moves along and carries no gradient"
        else:
            assert fell == pytest.approx(step * squared, rel=0.2), name


def test_guard_stops_a_model_that_does_not_read(music: Any) -> None:
    """Captions are the evidence: blanked or borrowed the score moves, unless the text encoder says nothing."""
    rows = [row for row in make_rows() if row.prompt]
    report = check_modality_used(music.adapter, music.model, rows)
    assert report.n == len(rows) and report.share_blank == report.share_shuffled == 1.0

    def silent(_module: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = torch.zeros_like(output.last_hidden_state)
        return output

    music.model.text_encoder.register_forward_hook(silent)
    music.model.enc_to_dec_proj.bias.data.zero_()
    music.adapter.towers = type(music.adapter.towers)()
    with pytest.raises(UserError, match="ignores"):
        check_modality_used(music.adapter, music.model, rows)


def test_caches_know_codes_by_content() -> None:
    one, two = Row("a", "x", steps=codes(0, 30)), Row("a", "x", steps=[*codes(0, 29), codes(1, 1)[0]])
    assert row_key(one) != row_key(two) and row_key(one) == row_key(Row("b", "x", steps=codes(0, 30)))
