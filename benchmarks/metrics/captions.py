"""Typed hallucination, coverage and form of captions whose facts can be checked one by one.

A *sentence* counts when it states at least one fact, so that gibberish cannot thin the rate out.
``hallucination/<type>`` is the share of those sentences with a false fact of that type;
``hallucination_when_stated/<type>`` divides by the sentences that state a checkable fact of the type,
which ceasing to state them cannot lower.  Precision and coverage count distinct facts per caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.stats.composite import Composite, f1, macro_f1, mean, ratio

__all__ = ["CAPTION_HEADLINE", "CAPTION_METRICS", "FACT_TYPES", "Checked", "caption_scores", "label_of"]

FACT_TYPES = ("object", "attribute", "relation")
"""The hallucination types of FGAIF."""

Checked = Sequence[tuple[str, bool, Sequence[tuple[Any, int]]]]
"""Sentences as (text, well formed, [(fact, label -1/0/+1)])."""


def label_of(facts: Sequence[tuple[Any, int]], kind: str) -> int:
    """Label of a sentence for one type: -1 when any fact is false, +1 when some is true, else 0."""
    labels = [label for fact, label in facts if fact.type == kind]
    return -1 if -1 in labels else int(1 in labels)


def caption_scores(sentences: Checked, truth: Mapping[str, frozenset[Any]]) -> dict[str, int]:
    """Return the counts of one caption.

    Args:
        sentences: every sentence with its facts and their labels.
        truth: by type, every fact that holds of the picture.
    """
    stating = [facts for _, _, facts in sentences if facts]
    texts = [" ".join(text.lower().split()) for text, _, _ in sentences]
    every = [pair for facts in stating for pair in facts]
    mentions = [label for fact, label in every if fact.type == "object"]
    counts = {
        "sentences": len(sentences),
        "stating": len(stating),
        "malformed": sum(not well_formed for _, well_formed, _ in sentences),
        "repeated": len(texts) - len(set(texts)),
        "empty": int(not sentences),
        "hallucinated": sum(any(label < 0 for _, label in facts) for facts in stating),
        "relation_sentences": sum(any(fact.type == "relation" for fact, _ in facts) for facts in stating),
        "mentions": len(mentions),
        "mentions_false": sum(label < 0 for label in mentions),
        "any_object_false": int(any(label < 0 for label in mentions)),
    }
    for kind in FACT_TYPES:
        stated = {fact: label for fact, label in every if fact.type == kind}
        labels = [label_of(facts, kind) for facts in stating]
        counts |= {
            f"hallucinated_{kind}": sum(label < 0 for label in labels),
            f"stating_{kind}": sum(label != 0 for label in labels),
            f"true_{kind}": sum(label > 0 for label in stated.values()),
            f"false_{kind}": sum(label < 0 for label in stated.values()),
            f"found_{kind}": sum(fact in truth[kind] for fact in stated),
            f"wanted_{kind}": len(truth[kind]),
        }
    return counts


def _metrics() -> dict[str, Composite]:
    f1_columns = {
        kind: (f"true_{kind}", f"false_{kind}", f"found_{kind}", f"wanted_{kind}") for kind in FACT_TYPES
    }
    metrics = {"hallucination/overall": ratio("hallucinated", "stating", False)}
    for kind in FACT_TYPES:
        metrics[f"hallucination/{kind}"] = ratio(f"hallucinated_{kind}", "stating", False)
    for kind in FACT_TYPES:
        metrics[f"hallucination_when_stated/{kind}"] = ratio(f"hallucinated_{kind}", f"stating_{kind}", False)
    for kind in FACT_TYPES:
        metrics[f"coverage/{kind}"] = ratio(f"found_{kind}", f"wanted_{kind}", True)
    for kind in FACT_TYPES:
        metrics[f"precision/{kind}"] = ratio(f"true_{kind}", (f"true_{kind}", f"false_{kind}"), True)
    for kind in FACT_TYPES:
        metrics[f"fact_f1/{kind}"] = f1(*f1_columns[kind])
    metrics["fact_f1/macro"] = macro_f1([f1_columns[kind] for kind in FACT_TYPES])
    return metrics | {
        "chair_i": ratio("mentions_false", "mentions", False),
        "chair_s": mean("any_object_false", False),
        "sentences_per_caption": mean("sentences", rate=False),
        "relation_sentences_per_caption": mean("relation_sentences", rate=False),
        "tokens_per_caption": mean("steps", rate=False),
        "malformed": ratio("malformed", "sentences", False),
        "repeated": ratio("repeated", "sentences", False),
        "empty": mean("empty", False),
        "unfinished": Composite(("finished",), lambda t: 1 - t[:, 0] / t[:, -1], False, rate=True),
    }


CAPTION_METRICS: Mapping[str, Composite] = _metrics()
"""Every caption metric by name."""
CAPTION_HEADLINE = (
    "hallucination/overall",
    *(f"hallucination/{kind}" for kind in FACT_TYPES),
    "fact_f1/macro",
    *(f"coverage/{kind}" for kind in FACT_TYPES),
    "sentences_per_caption",
    "relation_sentences_per_caption",
)
"""What a reader wants first: errors, what is still said, and how much."""
