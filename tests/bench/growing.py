"""Measures a step that keeps 40 MiB each time: ``python -m tests.bench.growing``, in a process of its own.

In the process of the tests the level before the first step is hundreds of MiB, of which the system may take some back
while the steps run.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from mmalign import registry
from mmalign.bench import memory
from mmalign.bench.definition import Case, Comparison, Step
from tests.bench import small_bench

_HELD: list[torch.Tensor] = []


def grow(_: Any) -> None:
    """Keep 40 MiB."""
    _HELD.append(torch.ones(40 * 2**20, dtype=torch.uint8))


if __name__ == "__main__":
    step = Step(grow, dict)
    case = Case("grow", "t", {"a": "a"}, lambda names: {"a": step}, (Comparison("a", "a"),), quick=True)
    bench = small_bench.bench(cases=(case, small_bench.case(), small_bench.case(quick=False)))
    registry.load = lambda group, name: bench
    sys.exit(memory.main(["small", "grow", "a", "quick"]))
