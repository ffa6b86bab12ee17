"""ClassDiffusion: a new word that keeps its class's meaning.  See docs/claims/diffusion.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.concept_measured import measure_concept
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results

__all__ = ["CLAIM"]

TEMPLATE, NETWORK = "measured/accessory/template", "measured/accessory/network"
SUBJECT, ALONE = "measured/subject", "measured/subject/alone"
ARMS = ("plain", "spl", "paper", "prior", "both")
PAPER, SEMANTIC = 0.5, 5.0
"""Weights of the semantic loss: the paper's, and ten times that, for the end state of this small encoder turns by a
cosine of .01 where one colour replaces another."""


def _arm(name: str, text: str, changes: dict[str, Any]) -> Arm:
    return Arm(name, changes, stages=("personalise",), job=measure_concept(), text=text)


def nothing_else_moved(results: Results) -> Verdict:
    """Every weight beside the new word and the keys and values that read prompts is bit for bit the start's."""
    worst = max(results.value(arm, "measured/moved", cell) for arm in ARMS for cell in results.cells(arm))
    return Verdict("holds" if worst == 0 else "fails", worst, text=f"largest change: {worst:.3g}")


CLAIM = Claim(
    name="classdiffusion",
    title="Keeping the class's meaning keeps the other objects of a prompt while a new thing is learnt",
    source="Huang et al. (2024), arXiv:2405.17532; statements of mmalign's own",
    arms=(
        Arm("start", kind="start", stages=(), job=measure_concept(None), text="the start, asked for the class itself"),
        _arm("plain", "a new word from five pictures, no semantic loss", {"personalise.semantic_weight": 0.0}),
        _arm("spl", "ClassDiffusion: with the semantic preservation loss", {}),
        _arm("paper", "the same at the paper's weight", {"personalise.semantic_weight": PAPER}),
        _arm("prior", "with the start's own pictures of the class instead",
             {"personalise.semantic_weight": 0.0, "personalise.n_prior": 32}),
        _arm("both", "with both", {"personalise.n_prior": 32}),
    ),
    statements=(
        says.must("E1", "the trained arms made equal steps", says.equal_steps("personalise", *ARMS)),
        says.must("W1", "nothing but the word, keys and values has moved", nothing_else_moved),
        says.must("C1", "the thing is learnt: it looks more like the pictures than the class does",
                  says.above("spl", "start", ALONE)),
        says.must("C2", "other objects are drawn more often with the semantic loss than without, by both detectors",
                  says.both_detectors("spl", "plain", TEMPLATE, NETWORK)),
        says.report("C3", "the thing beside another object looks the same with and without the loss",
                    says.shown_beside(SUBJECT, "start", *ARMS)),
        says.report("C4", "and more often than with prior preservation alone",
                    says.both_detectors("spl", "prior", TEMPLATE, NETWORK)),
        says.report("C5", "both together are above prior preservation alone",
                    says.both_detectors("both", "prior", TEMPLATE, NETWORK)),
        says.report("C6", "at the paper's weight too they are drawn more often than without the loss",
                    says.both_detectors("paper", "plain", TEMPLATE, NETWORK)),
        says.report("M1", "the word's cosine with its class", says.shown_beside("measured/cosine", *ARMS)),
    ),
    recipe="toy",
    overrides={
        "modality": "diffusion",
        "model.options": {"weighting": "min_snr", "snr_gamma": 6.0},
        "guard.enabled": False,
        "data.world": "drawings-concept",
        "data.n_train": 5,
        "personalise.class_word": "red",
        "personalise.start_word": "three",
        "personalise.prompt": "a {word} square",
        "personalise.class_prompt": "a {class} square",
        "personalise.max_steps": 500,
        "personalise.semantic_weight": SEMANTIC,
        "personalise.per_device_train_batch_size": 5,
        "personalise.learning_rate": 1e-3,
        "personalise.save_steps": 1000,
    },
    quick={"personalise.max_steps": 2},
    starts={"drawer": {"model.model_name_or_path": "embedded"}},
    equal=("seed", "modality", "model", "data", "personalise", "guard"),
    vary=("personalise.semantic_weight", "personalise.n_prior"),
    seeds=5,
    tables={
        "other object": TEMPLATE,
        "by network": NETWORK,
        "likeness alone": ALONE,
        "likeness": SUBJECT,
        "cosine": "measured/cosine",
    },
    recorded=Path(__file__).parent / "verdicts" / "classdiffusion.json",
)  # fmt: skip
"""The claim, found through the registry as ``classdiffusion``."""
