"""Both averages of VTAB against published tables."""

from __future__ import annotations

import pytest

from mmalign.stats.groups import averages

SIZES = {"natural": 7, "specialised": 4, "structured": 8}


HST = (
    76.7,
    94.1,
    74.8,
    99.6,
    91.1,
    91.2,
    52.3,
    87.1,
    96.3,
    88.6,
    76.5,
    85.4,
    63.7,
    52.9,
    81.7,
    87.2,
    56.8,
    35.8,
    52.1,
)
LST = (
    59.5,
    91.5,
    69.0,
    99.2,
    89.9,
    79.5,
    54.6,
    86.9,
    95.9,
    85.3,
    74.1,
    81.8,
    61.8,
    52.2,
    81.0,
    71.7,
    49.5,
    33.7,
    45.2,
)
"""Per task, as V-PETL Bench tabulates them (ViT-B/16, ImageNet-21k)."""


def tasks_of(values: tuple[float, ...]) -> tuple[dict[str, float], dict[str, str]]:
    groups = [name for name, size in SIZES.items() for _ in range(size)]
    return {f"t{k}": v for k, v in enumerate(values)}, {f"t{k}": g for k, g in enumerate(groups)}


@pytest.mark.parametrize(("values", "tasks", "groups"), [(HST, 75.99, 78.13), (LST, 71.70, 74.25)])
def test_both_averages_of_published_tables(values: tuple[float, ...], tasks: float, groups: float) -> None:
    found = averages(*tasks_of(values))
    assert round(found.tasks, 2) == tasks
    assert round(found.groups, 2) == groups


@pytest.mark.parametrize(
    ("means", "tasks", "groups"),
    [
        # group means of full fine-tuning and SPT-LoRA on the same backbone (SNELL, table 1)
        ((75.9, 83.4, 47.6), 65.57, 68.97),
        ((81.9, 85.9, 61.3), 74.07, 76.37),
    ],
)
def test_group_means_alone_give_both(means: tuple[float, ...], tasks: float, groups: float) -> None:
    values = tuple(mean for (_, size), mean in zip(SIZES.items(), means, strict=True) for _ in range(size))
    found = averages(*tasks_of(values))
    assert found.tasks == pytest.approx(tasks, abs=0.011)
    assert round(found.groups, 2) == groups
    assert list(found.by_group.values()) == pytest.approx(means)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no task"):
        averages({}, {})
    with pytest.raises(KeyError, match="b"):
        averages({"a": 1.0, "b": 2.0}, {"a": "x"})
