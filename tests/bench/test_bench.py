"""The machinery of benchmarks: equality first, interleaved timing, ratios with spread, the last line, the command."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign import registry
from mmalign.bench import memory
from mmalign.bench.agreement import check_agreement, relative_gap
from mmalign.bench.definition import Case, Comparison, Step, find_bench
from mmalign.bench.flops import count_flops, gemm_peak
from mmalign.bench.run import list_benches, run_bench
from mmalign.bench.timing import interleave, ratio_of, spread_of
from mmalign.cli.main import main
from mmalign.errors import UserError
from tests.bench import small_bench
from tests.bench.small_bench import SIZE, Product


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers a benchmark for the test."""

    def use(bench: Any) -> None:
        monkeypatch.setattr(registry, "load", lambda group, name: bench)

    use(small_bench.BENCH)
    return use


def test_a_run_from_end_to_end(small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run_bench("small", quick=True, output_dir=tmp_path)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = record["cases"]["product"]["comparisons"]["slow / quick"]
    assert last["ratio"] == pytest.approx(found["ratio"], abs=1e-3) and found["met"] is True
    assert 3 < last["ratio"] and last["spread"][0] <= last["ratio"] <= last["spread"][1]
    assert last["equal_to"] <= last["tolerance"] == 1e-5
    assert last["compared"] == "product: slow / quick" and last["bar"] == 2.0
    assert [line.split(" ")[1:4] for line in record["not_faster"]] == [["quick", "/", "slow"]]
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert stored["cases"]["product"]["variants"]["slow"]["gflop"] == pytest.approx(8 * 2 * 2 * SIZE**3 / 1e9)
    assert "<svg" in (tmp_path / "bench.svg").read_text() and stored["threads"] == 1


def test_numbers_that_differ_are_refused(small: Any, tmp_path: Path) -> None:
    small(small_bench.bench(small_bench.wrong))
    with pytest.raises(
        UserError, match=r"loss of quick differs from that of slow by 0.001 .*no timing is reported"
    ):
        run_bench("small", quick=True, output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_sentence_with_the_install_line(small: Any, tmp_path: Path) -> None:
    small(small_bench.bench(needs={"no_such_package": "pip install no-such-package"}))
    with pytest.raises(UserError, match="not installed: pip install no-such-package"):
        run_bench("small", quick=True, output_dir=tmp_path)


def test_cases_and_rounds_can_be_chosen(small: Any, tmp_path: Path) -> None:
    record = run_bench("small", quick=True, output_dir=tmp_path, cases=["product"], rounds=2)
    assert record["cases"]["product"]["rounds"] == 2
    assert record["command"] == "mmalign bench small --quick --cases product --rounds 2"
    with pytest.raises(UserError, match="no case 'produkt' .did you mean \"product\""):
        run_bench("small", quick=True, output_dir=tmp_path, cases=["produkt"])
    with pytest.raises(UserError, match="at least 2"):
        run_bench("small", quick=True, output_dir=tmp_path, rounds=1)


def test_interleaving_turns_the_order() -> None:
    calls: list[str] = []
    steps = {name: Step(lambda _, n=name: calls.append(n), dict) for name in "abc"}
    samples = interleave(steps, 4)
    assert "".join(calls) == "abcbcacababc"
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratio_and_spread() -> None:
    ratio = ratio_of([2.0, 8.0, 6.0], [1.0, 2.0, 2.0])
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 2.0, 4.0)
    assert spread_of([3.0, 1.0, 2.0]).median == 2.0


def test_relative_gap() -> None:
    assert relative_gap(torch.tensor([3.0, 4.1]), torch.tensor([3.0, 4.0])) == pytest.approx(0.02)
    assert relative_gap(torch.tensor([1, 2]), torch.tensor([1, 3])) == float("inf")
    with pytest.raises(ValueError, match="all zero"):
        relative_gap(torch.zeros(2), torch.zeros(2))
    with pytest.raises(UserError, match="gives"):
        check_agreement({"a": {"x": torch.ones(1)}, "b": {}}, 1e-5, "here")
    with pytest.raises(UserError, match="differs"):
        check_agreement({"a": {"x": torch.ones(1)}, "b": {"x": torch.tensor([float("nan")])}}, 1e-5, "here")


def test_attention_on_cpu_is_counted() -> None:
    """Torch's own counter leaves CPU attention out; forward 2 products, backward 5."""
    query = torch.randn(1, 2, 64, 16, requires_grad=True)

    def run(_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()

    assert count_flops(Step(run, dict)) == (2 + 5) * 2 * (2 * 64 * 64 * 16)


def test_gemm_peak_is_above_any_step() -> None:
    step = Product(1).step()
    assert gemm_peak(3) > count_flops(step) / 10 > 0


def test_memory_is_above_the_level_before() -> None:
    command = [sys.executable, "-m", "tests.bench.growing"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    measured = json.loads(done.stdout)["bytes"]
    assert 100 * 2**20 < measured < 180 * 2**20  # three steps of 40 MiB each
    with pytest.raises(UserError, match="measuring the memory of slow failed"):
        memory.peak_of("no_such_bench", "product", "slow", quick=True)


def test_a_record_becomes_tables(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_bench("small", quick=True, output_dir=tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["bench_table.py", str(tmp_path / "bench.json")])
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bench_table.py"), run_name="__main__")
    said = capsys.readouterr().out
    ratio = record["cases"]["product"]["comparisons"]["slow / quick"]["ratio"]
    assert "### `small`, case `product`" in said and f"| `slow / quick` | {ratio:.2f} [" in said
    assert said.count("| `") == len(record["cases"]["product"]["variants"]) + 2
    monkeypatch.setattr(sys, "argv", ["bench_table.py", str(tmp_path / "bentch.json")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bench_table.py"), run_name="__main__")
    assert "bentch.json: no such file" in capsys.readouterr().err


def test_definitions_are_checked() -> None:
    with pytest.raises(UserError, match="no variant 'slw' .did you mean \"slow\""):
        Case("c", "t", {"slow": ""}, small_bench.build, (Comparison("slw", "slow"),))
    with pytest.raises(UserError, match="no comparison"):
        small_bench.bench(headline=("product", "a / b"))


def test_every_registered_benchmark_is_listed_and_has_a_quick_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = list_benches()
    for name in registry.names("benches"):
        bench = find_bench(name)
        assert bench.chosen(True) and bench.chosen(False) and f"{name}: {bench.title}" in text
        assert all(re.search(r"\d", case.text) for case in bench.cases), "sizes are part of a case's text"
    assert main(["bench", "list", "--names"]) == 0
    assert capsys.readouterr().out.split() == registry.names("benches")
