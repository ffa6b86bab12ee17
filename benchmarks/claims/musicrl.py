"""MusicRL: adherence and quality by policy gradient on audio tokens.  See docs/objectives/musicrl.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims import musicrl_statements as says
from mmalign.benchmarks.claims.musicrl_measured import in_turn, measure, quality
from mmalign.claims.baselines import best_of_n
from mmalign.claims.definition import Arm, Claim, Job

__all__ = ["CLAIM"]

START_BEST = {"guidance": 2.5, "temperature": 0.7}
"""The start's best decoding, chosen on validation captions (docs/worlds/tunes.md has the table)."""
ALIGNED_BEST = {"guidance": 1.0, "temperature": 0.85}
"""The same of the policies that MusicRL trained, of four that were tried (docs/objectives/musicrl.md)."""

FEW, FEWER = 3, 2
"""Seeds of arms that are only held against R, and of those on the users' taste: what they show is large."""


def _decoded(guidance: float, temperature: float) -> dict[str, Any]:
    return {"evaluate.options": {"guidance_scale": guidance}, "evaluate.temperatures": [temperature]}


def _untrained(name: str, text: str, guidance: float, temperature: float, job: Job | None = None) -> Arm:
    changes = _decoded(guidance, temperature)
    text = f"no training: {text}"
    return Arm(name, changes, kind="baseline", stages=("evaluate",), job=job, weight=0.3, text=text)


def _trained(
    name: str,
    text: str,
    changes: Mapping[str, Any],
    stages: tuple[str, ...] = ("grpo", "evaluate"),
    first_seeds: int | None = None,
    job: Job | None = None,
) -> Arm:
    overrides = {"evaluate.include_start": False, **_decoded(**ALIGNED_BEST), **changes}
    return Arm(name, overrides, stages=stages, job=job or measure("grpo"), text=text, first_seeds=first_seeds)


_USERS = ("reward_model", "grpo", "evaluate")
_U: dict[str, Any] = {
    "reward.name": "preference",
    "reward.clip": 3.0,
    "reward.unfinished_penalty": 0.0,
    "reward.repeat_penalty": 0.0,
    "reward.malformed_penalty": 0.0,
}
_SHUFFLED = {"reward.name": "shuffled"}

CLAIM = Claim(
    name="musicrl",
    title="MusicRL follows captions better at no loss of quality, because of the reward",
    source="Cideron et al. (2024), arXiv:2402.04229; controls of mmalign's own",
    arms=(
        Arm(
            "start",
            _decoded(1.0, 1.0),
            kind="start",
            stages=("evaluate",),
            job=measure(),
            weight=0.3,
            text="the start, sampled as it is",
        ),
        _untrained("guided", "guidance", START_BEST["guidance"], 1.0),
        _untrained("cool", "a lower temperature", 1.0, START_BEST["temperature"]),
        _untrained(
            "start_best", "guidance and a lower temperature, its best setting", **START_BEST, job=quality()
        ),
        Arm(
            "best_of_4",
            _decoded(START_BEST["guidance"], 1.0),
            kind="baseline",
            stages=(),
            job=best_of_n(4, START_BEST["temperature"]),
            weight=0.6,
            text="no training: the best of 4 by R, at the start's best setting",
        ),
        _trained("r", "R: adherence and quality", {}, job=in_turn(measure("grpo"), quality("grpo"))),
        _trained(
            "shuffled",
            "control: the same rewards given to other pieces",
            {**_SHUFFLED, "reward.options": {"reward": "tunes-r"}},
        ),
        _trained(
            "captions",
            "control: pieces rewarded for other captions",
            {**_SHUFFLED, "reward.options": {"reward": "tunes-r", "what": "prompts"}},
            first_seeds=FEW,
        ),
        Arm(
            "sft",
            {"model.options": {"guidance_scale": 1.0}, **_decoded(**START_BEST)},
            kind="baseline",
            stages=("sft", "evaluate"),
            first_seeds=FEW,
            text="control: supervised training on more of the base's own data, about equal compute",
        ),
        _trained("u", "U: the users' taste alone", _U, _USERS, first_seeds=FEWER),
        _trained(
            "ru",
            "RU: the users' taste beside R",
            {**_U, "reward.model_weight": 0.3, "reward.also": {"tunes-r": 1.0, "tunes-truth": 0.0}},
            _USERS,
            first_seeds=FEWER,
        ),
    ),
    statements=says.statements(START_BEST["temperature"], ALIGNED_BEST["temperature"]),
    recipe="musicrl-u",
    overrides={
        "reward.name": "tunes-r",
        "guard.enabled": False,
        "evaluate.tasks": ["tunes"],
        "evaluate.max_new_tokens": 30,
        "grpo.max_completion_length": 30,
        "sft.max_steps": 1620,
        "sft.per_device_train_batch_size": 128,
        "sft.learning_rate": 1e-3,
    },
    quick={
        "evaluate.n": 8,
        "grpo.max_steps": 2,
        "grpo.rollout_batch_size": 2,
        "grpo.num_generations": 2,
        "sft.max_steps": 2,
        "data.n_train": 16,
        "feedback.n_prompts": 8,
        "feedback.n_heldout": 4,
        "reward_model.max_steps": 2,
    },
    equal=("seed", "modality", "model", "data", "evaluate", "guard", "grpo"),
    seeds=5,
    curves=("over_budget", "watch/tunes-truth"),
    tables={
        "adherence": says.ALIGNED.format(t=f"{ALIGNED_BEST['temperature']:g}", name="adherence/all"),
        "KL nats": "measured/kl",
        "truth T=1": "measured/truth",
        "taste": "measured/taste",
    },
    recorded=Path(__file__).parent / "verdicts" / "musicrl.json",
)
"""The claim, found through the registry as ``musicrl``."""
