"""FGAIF aligns a vision-language model: arms, controls and statements.  See docs/claims/fgaif.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims import fgaif_statements as says
from mmalign.benchmarks.claims.checks import equal_steps
from mmalign.claims.baselines import best_of_n
from mmalign.claims.definition import Arm, Claim, Statement
from mmalign.claims.identities import reward_identities
from mmalign.claims.noise import clean_quality

__all__ = ["CLAIM"]

TYPES = says.TYPES
BONUSES = (0.0, 0.5)
"""Bonuses per stated fact of the sweep; the recipe's own, between them, is ``dense`` and ``sequence``."""

_OWN = ("feedback", "reward_model", "ppo", "evaluate")


def _trained(
    name: str, text: str, changes: dict[str, Any], *, first_seeds: int | None = None, quick: bool = True
) -> Arm:
    """An arm that trains on the shared reward models."""
    job = reward_identities(TYPES) if name == "dense" else None
    overrides = {"evaluate.include_start": False, **changes}
    return Arm(name, overrides, reuses="shared", text=text, job=job, first_seeds=first_seeds, quick=quick)


def _arms() -> tuple[Arm, ...]:
    own = {"evaluate.include_start": False}
    noise = tuple(
        Arm(
            f"noise_{share}",
            {"feedback.label_noise": share / 100},
            kind="shared",
            stages=("feedback", "reward_model"),
            reuses="sft",
            job=clean_quality("shared"),
            first_seeds=2,
            weight=0.7,
            text=f"reward models trained on labels of which {share} % are flipped",
        )
        for share in (10, 30)
    )
    return (
        Arm("sft", kind="start", stages=("sft", "evaluate"), weight=0.3, text="the start, not trained further"),
        Arm("shared", kind="shared", stages=("feedback", "reward_model"), reuses="sft", weight=0.7,
            text="feedback and reward models"),
        _trained("dense", "FGAIF: rewards at segment ends", {"reward.placement": "dense"}),
        _trained("sequence", "the same rewards summed at the last step", {"reward.placement": "sequence"}),
        *(
            _trained(f"no_{t}", f"without the {t} reward", {f"reward.weights.{t}": 0.0}, first_seeds=3)
            for t in TYPES
        ),
        _trained(
            "oracle", "the exact judge in place of the reward models", {"reward.source": "judge"}, first_seeds=3
        ),
        Arm("shuffled", {**own, "feedback.shuffle_labels": True}, stages=_OWN, reuses="sft", weight=1.6,
            text="control: labels shuffled before the reward models are trained"),
        Arm("blanked", {**own, "reward_model.blank_media": True}, stages=_OWN, reuses="sft", weight=1.6,
            text="control: the reward models see blank images"),
        Arm("greedy", {"evaluate.temperatures": [0.0]}, kind="baseline", stages=("evaluate",), reuses="sft",
            weight=0.1, text="no training: the start, greedy"),
        Arm("temperature", {"evaluate.temperatures": [0.7]}, kind="baseline", stages=("evaluate",), reuses="sft",
            weight=0.1, text="no training: the start sampled at T = 0.7"),
        Arm("best_of_4", kind="baseline", stages=(), reuses="shared", job=best_of_n(4), weight=0.3,
            text="no training: the best of 4 answers of the start by the same reward"),
        *noise,
        *(
            _trained(f"{placement}_bonus_{bonus:g}", f"{placement}, bonus per fact {bonus:g}",
                     {"reward.placement": placement, "reward.fact_bonus": bonus}, first_seeds=2, quick=False)
            for bonus in BONUSES for placement in ("dense", "sequence")
        ),
    )  # fmt: skip


def _statements() -> tuple[Statement, ...]:
    must = (
        ("P1", "at least 75 % of the start's relation sentences are right (greedy)", says.relations_learned),
        ("E1", "every trained arm made the same number of steps", equal_steps("ppo")),
        ("H1", "sampled at T=1, sentence hallucination falls by at least 40 %", says.falls_sampled),
        ("H2", "greedy, sentence hallucination falls by at least 25 %", says.falls_greedy),
        ("H3", "no type's coverage falls by more than 5 points", says.coverage_kept),
        ("H4", "relations are still stated: at least half as many as by the start", says.relations_stated),
        ("H5", "macro fact-F1 rises, paired interval over seeds above 0", says.f1_rises),
        ("H6", "reward models that never see the image gain nothing", says.blanked_gains_nothing),
        ("H7", "each type's hallucination, where stated, falls or is unchanged", says.every_type),
        ("T4", "a type that a segment does not state pays exactly 0, and sums agree", says.identities),
        ("T5", "shuffled labels gain nothing", says.shuffled_gains_nothing),
    )
    report = (
        ("T1", "dense beats the same rewards summed at the end", says.dense_beats_sequence),
        ("T2o", "without the object reward, object errors rise most", says.ablation("object")),
        ("T2a", "without the attribute reward, attribute errors rise most", says.ablation("attribute")),
        ("T2r", "without the relation reward, relation errors rise most", says.ablation("relation")),
        ("T3", "held out, each reward model is right above 90 % and above majority", says.models_accurate),
        ("T3n", "accuracy degrades with label noise", says.noise_degrades),
        ("B1", "training gains more fact-F1 than sampling at T = 0.7", says.beats("temperature", "T0.7")),
        (
            "B2",
            "training gains more fact-F1 than best of 4 by the same reward",
            says.beats("best_of_4", "T1"),
        ),
        ("O1", "the exact judge as reward gains more fact-F1 than the reward models", says.oracle_above),
    )
    return (
        *(Statement(i, text, True, check) for i, text, check in must),
        *(Statement(i, text, False, check) for i, text, check in report),
    )


CLAIM = Claim(
    name="fgaif",
    title="FGAIF lowers hallucination at kept coverage",
    source="Jing and Du (2024), arXiv:2404.05046; statements of mmalign's own",
    arms=_arms(),
    statements=_statements(),
    recipe="fgaif",
    overrides={
        "evaluate.tasks": ["scenes-captions"],
        "evaluate.temperatures": [0.0, 1.0],
        "evaluate.split": "test",
        "evaluate.n": 300,
    },
    quick={
        "data.n_train": 256,
        "feedback.n_prompts": 96,
        "feedback.n_heldout": 48,
        "reward_model.max_steps": 60,
        "ppo.max_steps": 12,
        "evaluate.n": 60,
    },
    starts={f"base{k}": {"model.model_name_or_path": f"embedded:{k}"} for k in (0, 1)},
    equal=(
        "seed",
        "modality",
        "model",
        "data",
        "sft",
        "feedback",
        "reward_model",
        "reward",
        "ppo",
        "evaluate",
        "guard",
    ),
    vary=(
        "reward.placement",
        "reward.source",
        "reward.weights",
        "reward.fact_bonus",
        "feedback.shuffle_labels",
        "reward_model.blank_media",
    ),
    tables={
        "halluc. T=1": f"{says.SAMPLED}/hallucination/overall",
        "halluc. greedy": f"{says.GREEDY}/hallucination/overall",
        "fact-F1 T=1": f"{says.SAMPLED}/fact_f1/macro",
        "fact-F1 greedy": f"{says.GREEDY}/fact_f1/macro",
        "relations T=1": f"{says.SAMPLED}/relation_sentences_per_caption",
        "sentences T=1": f"{says.SAMPLED}/sentences_per_caption",
        "KL nats": "train/kl",
    },
    recorded=Path(__file__).parent / "verdicts" / "fgaif.json",
)
"""The claim, found through the registry as ``fgaif``."""
