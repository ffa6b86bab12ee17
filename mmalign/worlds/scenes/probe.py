"""A quick look at a scenes model: typed hallucination of its captions, and how well it answers questions.

Made for watching pre-training; the figures people quote come from the evaluation harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.facts import FACT_TYPES, true_facts, verify
from mmalign.worlds.scenes.grammar import parse
from mmalign.worlds.scenes.model import IMAGE_TOKENS, word_ids
from mmalign.worlds.scenes.pretrain import forward, image_features, normalise
from mmalign.worlds.scenes.questions import POPE_KINDS, Question, absent_class, ask
from mmalign.worlds.scenes.render import render_array
from mmalign.worlds.scenes.scene import Scene, generate
from mmalign.worlds.scenes.words import CAPTION_PROMPT

__all__ = ["caption_scores", "describe", "probe", "question_scores"]

IDS = word_ids()
WORDS = {i: w for w, i in IDS.items()}


def _pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    return normalise(torch.from_numpy(np.stack([render_array(s) for s in scenes])))


def _head(question: str) -> list[int]:
    words = ["<s>", "user", ":", *["<image>"] * IMAGE_TOKENS, *question.split(), "assistant", ":"]
    return [IDS[w] for w in words]


@torch.no_grad()
def describe(
    model: LlavaForConditionalGeneration,
    scenes: Sequence[Scene],
    *,
    sample: bool,
    seed: int = 0,
    prompt: str = CAPTION_PROMPT,
) -> list[str]:
    """One answer per scene, greedy or sampled at temperature 1, at most 110 tokens."""
    torch.manual_seed(seed)
    ids = torch.tensor([_head(prompt)] * len(scenes))
    out = cast(Any, model).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=_pixels(scenes),
        do_sample=sample,
        temperature=1.0 if sample else None,
        top_k=0 if sample else None,
        max_new_tokens=110,
    )
    texts = []
    for row in out[:, ids.shape[1] :].tolist():
        words = [WORDS[i] for i in row]
        texts.append(" ".join(words[: words.index("</s>")] if "</s>" in words else words))
    return texts


def caption_scores(scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, float]:
    """Sentence hallucination (any and per type), errors per judged fact, coverage and length."""
    bad = dict.fromkeys(("any", *FACT_TYPES), 0)
    wrong, judged = dict.fromkeys(FACT_TYPES, 0), dict.fromkeys(FACT_TYPES, 0)
    found, true = dict.fromkeys(FACT_TYPES, 0), dict.fromkeys(FACT_TYPES, 0)
    n, malformed, relations = 0, 0, 0
    for scene, text in zip(scenes, texts, strict=True):
        said: set[object] = set()
        for sentence in parse(text):
            n += 1
            malformed += not sentence.well_formed
            hit: set[str] = set()
            relations += any(f.type == "relation" for f in sentence.facts)
            for fact in sentence.facts:
                label = verify(fact, scene)
                judged[fact.type] += label != 0
                wrong[fact.type] += label < 0
                said.add(fact)
                if label < 0:
                    hit.add(fact.type)
            for name in (*hit, *(["any"] if hit else [])):
                bad[name] += 1
        for name, facts in true_facts(scene).items():
            true[name] += len(facts)
            found[name] += len(facts & said)
    out = {f"sent_{k}": v / max(n, 1) for k, v in bad.items()}
    out |= {f"err_{k}": wrong[k] / max(judged[k], 1) for k in FACT_TYPES}
    out |= {f"cov_{k}": found[k] / max(true[k], 1) for k in FACT_TYPES}
    out |= {
        "sentences": n / len(scenes),
        "relations": relations / len(scenes),
        "malformed": malformed / max(n, 1),
    }
    return {k: round(v, 4) for k, v in out.items()}


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    order = scores.argsort(kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    yes, no = labels.sum(), (~labels).sum()
    return float((ranks[labels].sum() - yes * (yes + 1) / 2) / max(yes * no, 1))


def _questions(scenes: Sequence[Scene], kind: str, rng: np.random.Generator) -> list[tuple[int, Question]]:
    """A yes and a no question per scene where both exist (one, for places)."""
    found = []
    for i, scene in enumerate(scenes):
        if kind in POPE_KINDS:
            present = scene.classes()
            cls = present[rng.integers(len(present))]
            pair = [Question(kind, f"is there a {cls} ?", "yes")]
            pair.append(Question(kind, f"is there a {absent_class(scene, kind, rng)} ?", "no"))
        elif kind == "where":
            asked = ask(scene, kind, True, rng)
            pair = [asked] if asked else []
        else:
            asked_pair = [ask(scene, kind, truth, rng) for truth in (True, False)]
            pair = [q for q in asked_pair if q is not None]
            pair = pair if len(pair) == 2 else []
        found += [(i, q) for q in pair]
    return found


@torch.no_grad()
def question_scores(
    model: LlavaForConditionalGeneration, scenes: Sequence[Scene], seed: int = 0
) -> dict[str, float]:
    """Accuracy per kind of question (POPE kinds too) and the AUC of judging whole sentences per type."""
    features = image_features(model, _pixels(scenes))
    out: dict[str, float] = {}
    for kind in ("object", *POPE_KINDS, "attribute", "relation", "count", "where", "truth"):
        asked = _questions(scenes, kind, numpy_generator(seed, "probe", kind))
        answers = [q.answer.split() for _, q in asked]
        rows = [
            _head(q.text) + ([IDS[w] for w in a] if kind == "where" else [])
            for (_, q), a in zip(asked, answers, strict=True)
        ]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = torch.tensor(row)
        hidden = forward(model, ids, features[torch.tensor([i for i, _ in asked])])
        if kind == "where":
            logits = model.lm_head(hidden)
            right = []
            for r, (row, a) in enumerate(zip(rows, answers, strict=True)):
                span = slice(len(row) - len(a) - 1, len(row) - 1)
                right.append(logits[r, span].argmax(-1).tolist() == row[len(row) - len(a) :])
            out[kind] = float(np.mean(right))
            continue
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = model.lm_head(hidden[torch.arange(len(rows)), last])
        margin = (logits[:, IDS["yes"]] - logits[:, IDS["no"]]).numpy()
        yes = np.array([q.answer == "yes" for _, q in asked])
        out[kind] = float(((margin > 0) == yes).mean())
        if kind == "truth":
            about = np.array([q.about for _, q in asked])
            for name in FACT_TYPES:
                out[f"truth_auc_{name}"] = _auc(margin[about == name], yes[about == name])
    return {k: round(v, 4) for k, v in out.items()}


def probe(
    model: LlavaForConditionalGeneration, n: int = 300, split: str = "validation"
) -> dict[str, dict[str, float]]:
    """All figures on ``n`` scenes: greedy and sampled captions under the caption prompt, and questions."""
    training = model.training
    model.eval()
    scenes = [generate(seed, split) for seed in range(n)]
    out = {
        "greedy": caption_scores(scenes, describe(model, scenes, sample=False)),
        "sampled": caption_scores(scenes, describe(model, scenes, sample=True)),
        "questions": question_scores(model, scenes),
    }
    model.train(training)
    return out
