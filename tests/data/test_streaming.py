"""Files are read row by row: by place in every format, with exact resume, and without growing in memory."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmalign.config.load import load_config
from mmalign.data.lazy import Joined, Mapped
from mmalign.data.records import open_records
from mmalign.data.rows import open_rows
from mmalign.engine import offline
from mmalign.engine.checkpoint import latest_checkpoint
from mmalign.errors import UserError
from mmalign.pipeline.run import run_recipe
from mmalign.testing.policies import toy_rows
from mmalign.types import Row


def toy_records(n: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row.prompt,
            "images": [[round(float(x), 3) for x in row.media[0]]],
            "completion": row.completion,
            "chosen": row.chosen,
            "rejected": row.rejected,
        }
        for row in toy_rows(n, seed=3)
    ]


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def flags(train: Path, output: Path, stage: str, *more: str) -> list[str]:
    common = f"--data.train {train} --output_dir {output} --stages [{stage}] --sft.learning_rate 1e-3"
    steps = "--sft.max_steps 12 --sft.save_steps 2 --dpo.max_steps 6 --dpo.save_steps 2 --dpo.reference cache"
    steps += " --kto.max_steps 6 --kto.save_steps 2"
    return [*common.split(), *steps.split(), "--data.n_train", "100000", *more]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "datasets"])
def test_any_row_by_its_place(tmp_path: Path, kind: str) -> None:
    records = [{"id": str(k), "prompt": f"é {k}", "completion": "x" * (k % 7 + 1)} for k in range(23)]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("\n\n" + "\n  \n".join(lines), encoding="utf-8")  # blank lines, no newline at the end
    elif kind == "json":
        path.write_text(json.dumps(records))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=2)
    else:
        import datasets

        datasets.Dataset.from_list(records).save_to_disk(str(path))
    rows = open_rows(path)
    assert [rows[k].id for k in (22, 0, 13, -1)] == ["22", "0", "13", "22"]
    assert [row.prompt for row in rows] == [record["prompt"] for record in records]
    part = rows[5:20:3]
    assert len(part) == 5 and [row.id for row in part] == ["5", "8", "11", "14", "17"]
    assert [row.id for row in part[1:3]] == ["8", "11"]
    assert rows.fingerprint == open_rows(path).fingerprint
    with pytest.raises(IndexError):
        rows[23]


def test_parquet_keeps_a_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist([{"prompt": str(k)} for k in range(40)]), path, row_group_size=2
    )
    records = open_records(path)
    assert [records[k]["prompt"] for k in range(40)] == [str(k) for k in range(40)]
    assert len(records._kept) == 4  # type: ignore[attr-defined]


def test_complaints_name_file_and_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for text, message in [
        ('{"prompt": "a"}\n\n{"prompt"\n', "rows.jsonl: row 3 is not valid JSON"),
        ('{"prompt": "a"}\n[1]\n', "rows.jsonl: row 2 is a list, expected a JSON object"),
        ("", "rows.jsonl: holds no rows"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            list(open_rows(file))
    file.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match="rows.jsonl: row 2 is not UTF-8"):
        list(open_rows(file))
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="rows.parquet: is not a Parquet file"):
        open_rows(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match='no such file .did you mean "rows.jsonl"'):
        open_rows(tmp_path / "row.jsonl")


def test_a_killed_run_over_a_streamed_file_ends_with_the_same_metrics(tmp_path: Path) -> None:
    train = write(tmp_path / "rows.jsonl", toy_records(300))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_recipe(load_config("toy", flags(train, whole, "sft")))
    command = [sys.executable, "-m", "mmalign", "run", "toy", *flags(train, cut, "sft")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while (
        latest_checkpoint(cut / "stages/sft") is None
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    done = cut / "stages" / "sft" / "done.json"
    assert latest_checkpoint(cut / "stages/sft") is not None
    done.unlink(
        missing_ok=True
    )  # should the kill have come too late, the last steps are done again all the same
    run_recipe(load_config("toy", flags(train, cut, "sft")))
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 12


def test_a_file_that_changed_stops_the_resumed_run(tmp_path: Path) -> None:
    train, output = write(tmp_path / "rows.jsonl", toy_records(40)), tmp_path / "run"
    run_recipe(load_config("toy", flags(train, output, "sft")))
    (output / "stages/sft/done.json").unlink()
    write(train, toy_records(41))
    with pytest.raises(UserError, match=r"has changed since this run began \(40 rows then, 41 now\)"):
        run_recipe(load_config("toy", flags(train, output, "sft")))


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_rows_in_memory_do_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    alive: list[int] = []
    real = offline.rows_for_step

    def counted(*args: Any, **kwargs: Any) -> Any:
        batch = real(*args, **kwargs)
        gc.collect()  # rows in reference cycles are garbage, not held
        alive.append(sum(isinstance(thing, Row) for thing in gc.get_objects()))
        return batch

    monkeypatch.setattr(offline, "rows_for_step", counted)
    peaks = []
    for n in (60, 1500):
        gc.collect()
        before = sum(isinstance(thing, Row) for thing in gc.get_objects())
        train = write(tmp_path / f"{n}.jsonl", toy_records(n))
        alive.clear()
        run_recipe(load_config("toy", flags(train, tmp_path / str(n), stage)))
        peaks.append(max(alive) - before)
    assert peaks[1] <= peaks[0] + 4 and 0 < peaks[1] < 200, peaks


def test_a_bad_row_stops_before_training_unless_switched_off(tmp_path: Path) -> None:
    records = toy_records(40)
    records[39] = {"prompt": "a", "completion": " "}
    train = write(tmp_path / "rows.jsonl", records)
    with pytest.raises(UserError, match="row 40: the answer is empty"):
        run_recipe(load_config("toy", flags(train, tmp_path / "one", "ppo")))
    assert not (tmp_path / "one/metrics.jsonl").exists()
    more = [
        "--reward.source",
        "none",
        "--data.check_rows",
        "false",
        "--ppo.max_steps",
        "1",
        "--ppo.rollout_batch_size",
        "4",
    ]
    run_recipe(load_config("toy", flags(train, tmp_path / "two", "ppo", *more)))
    assert (tmp_path / "two/metrics.jsonl").exists()


def test_lazy_sequences() -> None:
    made: list[int] = []

    def make(k: int) -> str:
        made.append(k)
        return str(k)

    mapped = Mapped(range(10), make)
    assert len(mapped[2:8]) == 6 and made == []
    assert mapped[2:8][1] == "3" and made == [3]
    joined = Joined(mapped[:2], ["x"], mapped[5:6])
    assert list(joined) == ["0", "1", "x", "5"] and joined[-1] == "5" and list(joined[1:3]) == ["1", "x"]
    with pytest.raises(IndexError):
        joined[4]
