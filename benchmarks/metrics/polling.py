"""Metrics of yes/no polling (POPE): yes is the positive class, an unread answer is wrong and never a yes."""

from __future__ import annotations

from collections.abc import Mapping

from mmalign.evals.parser import Parsed
from mmalign.stats.composite import Composite, mean, ratio

__all__ = ["POLLING_HEADLINE", "POLLING_METRICS", "polling_scores"]

POLLING_METRICS: Mapping[str, Composite] = {
    "accuracy": mean("correct", higher_is_better=True),
    "precision": ratio("true_yes", ("true_yes", "false_yes"), higher_is_better=True),
    "recall": ratio("true_yes", "positive", higher_is_better=True),
    "f1": ratio(("true_yes", "true_yes"), ("true_yes", "false_yes", "positive"), higher_is_better=True),
    "yes_share": mean("yes"),
    "unparsed": mean("unparsed", higher_is_better=False),
}
"""F1 is ``2 TP / (TP + FP + positives)``: an unread answer to a yes-question is a miss, not left out."""

POLLING_HEADLINE = ("accuracy", "f1", "yes_share", "unparsed")
"""What a reader wants first."""


def polling_scores(parsed: Parsed, label: str) -> dict[str, int]:
    """Return the 0/1 counts of one answer against its ``label`` (yes or no)."""
    yes, positive = parsed.ok and parsed.value == "yes", label == "yes"
    return {
        "correct": int(parsed.ok and parsed.value == label),
        "yes": int(yes),
        "unparsed": int(not parsed.ok),
        "positive": int(positive),
        "true_yes": int(yes and positive),
        "false_yes": int(yes and not positive),
    }
