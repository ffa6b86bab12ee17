"""Both averages of VTAB against published tables."""

from __future__ import annotations

import pytest

from mmalign.stats.groups import averages

SIZES = {"natural": 7, "specialised": 4, "structured": 8}


@pytest.mark.parametrize(
    ("means", "tasks", "groups"),
    [
        # ViT-B/16 on ImageNet-21k: full fine-tuning, adapters, LoRA, SPT-LoRA (SNELL, table 1)
        ((75.9, 83.4, 47.6), 65.57, 68.97),
        ((79.0, 84.1, 58.5), 71.44, 73.87),
        ((79.5, 84.6, 60.5), 72.57, 74.87),
        ((81.9, 85.9, 61.3), 74.07, 76.37),
    ],
)
def test_published_group_means_give_the_published_averages(
    means: tuple[float, ...], tasks: float, groups: float
) -> None:
    scores, group_of = {}, {}
    for (group, size), mean in zip(SIZES.items(), means, strict=True):
        for k in range(size):
            spread = k - (size - 1) / 2
            scores[f"{group}{k}"], group_of[f"{group}{k}"] = mean + spread, group
    found = averages(scores, group_of)
    assert round(found.tasks, 1) == pytest.approx(round(tasks, 1), abs=0.11)
    assert found.groups == pytest.approx(groups, abs=0.005)
    assert list(found.by_group.values()) == pytest.approx(means)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no task"):
        averages({}, {})
    with pytest.raises(KeyError, match="b"):
        averages({"a": 1.0, "b": 2.0}, {"a": "x"})
