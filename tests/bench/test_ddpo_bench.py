"""The DDPO benchmark compares equal numbers: our step against the plain loop over one drawing of the noise."""

from __future__ import annotations

from mmalign.bench.agreement import relative_gap
from mmalign.benchmarks.bench.ddpo import BENCH


def test_every_variant_of_the_quick_case_has_the_plain_loops_numbers() -> None:
    case = BENCH.case("quick", quick=True)
    steps = case.build(list(case.variants))
    outcomes = {}
    for name, step in steps.items():
        step.run(None)
        outcomes[name] = step.outcome()
    want = outcomes.pop("plain")
    assert float(want["gradient"].norm()) > 0
    for name, found in outcomes.items():
        assert set(found) == {"logp", "reward", "gradient"}
        for key, value in found.items():
            assert float(relative_gap(value, want[key])) <= case.tolerance, (name, key)
