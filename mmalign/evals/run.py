"""The sampling loop: batches, one flushed line per answer, resume, isolation of faults, cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import JsonlWriter, clean
from mmalign.data.results import SAMPLE_SCHEMA, read_samples
from mmalign.errors import UserError
from mmalign.evals.cache import ResponseCache, opened, row_digest
from mmalign.evals.outputs import keep_media, plain_output
from mmalign.evals.progress import bar
from mmalign.evals.store import identity, scored, write_results
from mmalign.protocols import Samples, Task
from mmalign.rng import generator
from mmalign.types import Row

__all__ = ["evaluate", "score_outputs"]

KEPT_MEDIA = 24
"""How many rows of a task keep their pictures or sounds on disk for the report."""


def evaluate(
    adapter: Any,
    model: Any,
    task: Task,
    out_dir: Path,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    batch_size: int = 32,
    max_steps: int = 128,
    model_info: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool | Callable[[int, int], None] = True,
    cache_dir: Path | None = None,
) -> dict[str, Any]:
    """Answer every row of ``task``, append each answer to ``samples.jsonl`` and derive ``results.json``.

    The same call continues where a killed one stopped: finished ids are skipped, rows that failed
    are tried again.  With an adapter that has ``row_streams`` each row draws from a random stream of
    its own, so neither a resume nor the batch size changes what is sampled (up to rounding of batched
    arithmetic); with any other, batches are cut the same way on every start and the batch size is
    part of the request.

    Args:
        adapter: a modality that offers ``Samples``.
        model: its loaded policy.
        task: rows, score and metrics.
        out_dir: the folder of this evaluation, e.g. ``runs/x/evals/sft/scenes-captions@greedy``.
        seed: seed of the sampling streams.
        temperature, batch_size: 0 is greedy; rows per call of ``adapter.sample``.
        max_steps: longest answer, in steps.
        model_info: what identifies the policy; with a ``sha256`` of its weights, greedy answers are cached.
        options: the adapter's settings while it answers; part of the request, nothing is set here.
        progress: show a bar, or call ``progress(done, total)``.
        cache_dir: folder of the response cache; none by default.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: when the adapter cannot sample, the folder holds samples of another request, or
            every row of a batch fails.
    """
    if not isinstance(adapter, Samples):
        raise UserError(
            f'modality "{getattr(adapter, "name", adapter)}" cannot sample, so it cannot be evaluated'
        )
    rows = _checked_rows(task)
    generation: dict[str, Any] = {
        "temperature": float(temperature),
        "max_steps": int(max_steps),
        "seed": int(seed),
    }
    if options:
        generation["options"] = dict(options)
    if not getattr(adapter, "row_streams", False) and temperature > 0:
        generation["batch_size"] = int(batch_size)
    job = _Job(adapter, model, task, Path(out_dir), generation, dict(model_info or {}), rows)
    _answer_all(job, batch_size, progress, cache_dir)
    return write_results(job.folder, read_samples(job.path), task)


def _answer_all(
    job: _Job, batch_size: int, progress: bool | Callable[[int, int], None], cache_dir: Path | None
) -> None:
    """Answer the rows that have no answer yet, flushing each batch."""
    todo = job.unfinished()
    with (
        opened(cache_dir) as cache,
        JsonlWriter(job.path) as writer,
        bar(job.task.name, len(job.rows), progress) as advance,
    ):
        advance(len(job.rows) - len(todo))
        for batch in job.batches(todo, batch_size):
            records = job.answer(batch, cache)
            for record in records:
                writer.write(record)
            writer.sync()
            advance(len(records))
            _stop_if_all_failed(job.task, records)


def score_outputs(
    task: Task,
    outputs: Mapping[str, Any],
    out_dir: Path,
    *,
    model_info: Mapping[str, Any] | None = None,
    adapter: Any = None,
) -> dict[str, Any]:
    """Score answers made elsewhere (id to answer) as if they had been sampled here.

    An ``adapter`` that offers ``Shows`` keeps the pictures of the first rows for the report.

    Raises:
        UserError: when ``outputs`` lacks a row of the task or holds an id that is none.
    """
    rows = _checked_rows(task)
    missing = [row.id for row in rows if row.id not in outputs]
    unknown = sorted(set(outputs) - {row.id for row in rows})
    if missing or unknown:
        fault = (
            f'no answer for "{missing[0]}"' if missing else f'an answer for "{unknown[0]}", which is no row'
        )
        raise UserError(f"task {task.name}: {len(missing) + len(unknown)} ids do not match; there is {fault}")
    job = _Job(adapter, None, task, Path(out_dir), {"source": "answers given"}, dict(model_info or {}), rows)
    with JsonlWriter(job.path) as writer:
        for index in job.unfinished():
            row = rows[index]
            writer.write(job.record(index, row, _Answer(outputs[row.id])))
    return write_results(job.folder, read_samples(job.path), task)


@dataclass(frozen=True, slots=True)
class _Answer:
    output: Any = None
    steps: int | None = None
    finished: bool | None = None
    error: str | None = None


class _Job:
    """One evaluation: what every line repeats, and how a batch becomes lines."""

    def __init__(
        self,
        adapter: Any,
        model: Any,
        task: Task,
        folder: Path,
        generation: Mapping[str, Any],
        model_info: Mapping[str, Any],
        rows: Sequence[Row],
    ) -> None:
        self.adapter, self.model, self.task, self.folder, self.rows = adapter, model, task, folder, rows
        self.path = folder / "samples.jsonl"
        self.skip: set[int] = set()
        self.digests = [row_digest(row) for row in rows]
        joined = hashlib.sha256(
            "".join(f"{r.id}{d}" for r, d in zip(rows, self.digests, strict=True)).encode()
        )
        self.shared = clean(
            {
                **identity(task),
                "data": {
                    **getattr(task, "data_info", {}),
                    "n_total": len(rows),
                    "sha256": joined.hexdigest(),
                },
                "model": model_info,
                "generation": generation,
            }
        )

    def unfinished(self) -> list[int]:
        """Indices of rows without a good answer; refuses samples of another request."""
        if not self.path.exists():
            return list(range(len(self.rows)))
        done = set()
        for sample in read_samples(self.path):
            for key, value in self.shared.items():
                if sample.get(key) != value:
                    raise UserError(
                        f"{self.path} was made with another {key} ({sample.get(key)!r}, now {value!r}); "
                        "use a fresh folder or delete it"
                    )
            if "error" not in sample:
                done.add(sample["id"])
        return [index for index, row in enumerate(self.rows) if row.id not in done]

    def batches(self, todo: Sequence[int], size: int) -> Iterator[list[int]]:
        """Batches of row indices; without row streams whole batches of the full list are drawn again."""
        if "batch_size" not in self.shared["generation"]:
            yield from (list(todo[start : start + size]) for start in range(0, len(todo), size))
            return
        wanted = set(todo)
        for start in range(0, len(self.rows), size):
            batch = list(range(start, min(start + size, len(self.rows))))
            if wanted & set(batch):
                self.skip = set(batch) - wanted
                yield batch

    def answer(self, batch: Sequence[int], cache: ResponseCache | None) -> list[dict[str, Any]]:
        """Answer a batch, through the cache where allowed; a fault costs only the row that has it."""
        rows = [self.rows[index] for index in batch]
        keys = [
            cache.key(row, self.shared["model"], self.shared["generation"]) if cache else None for row in rows
        ]
        known = [cache.get(key) if cache else None for key in keys]
        asked = [row for row, hit in zip(rows, known, strict=True) if hit is None]
        fresh = iter(self._sample(asked) if asked else [])
        records = []
        for index, row, key, hit in zip(batch, rows, keys, known, strict=True):
            answer = _Answer(**hit) if hit is not None else next(fresh)
            if index in self.skip:
                continue
            records.append(self.record(index, row, answer))
            if cache is not None and answer.error is None and isinstance(answer.output, str):
                cache.put(key, {"output": answer.output, "steps": answer.steps, "finished": answer.finished})
        return records

    def _sample(self, rows: Sequence[Row]) -> list[_Answer]:
        try:
            return self._draw(rows)
        except Exception as error:  # one bad row must not cost the others
            if len(rows) == 1:
                return [_Answer(error=f"{type(error).__name__}: {error}")]
            return [answer for row in rows for answer in self._sample([row])]

    def _draw(self, rows: Sequence[Row]) -> list[_Answer]:
        settings = self.shared["generation"]
        names = (settings["seed"], "evaluate", self.task.name)
        streams: Any = [generator(*names, row.id) for row in rows]
        if not getattr(self.adapter, "row_streams", False):
            streams = generator(*names, *(row.id for row in rows))
        rollout = self.adapter.sample(
            self.model, rows, 1, streams, temperature=settings["temperature"], max_steps=settings["max_steps"]
        )
        lengths, finished = rollout.mask.sum(dim=1).tolist(), rollout.finished.tolist()
        return [
            _Answer(row.completion, int(steps), bool(end))
            for row, steps, end in zip(rollout.rows, lengths, finished, strict=True)
        ]

    def record(self, index: int, row: Row, answer: _Answer) -> dict[str, Any]:
        """Return the line of one answer; a fault while scoring is noted in the line, not raised."""
        read: dict[str, Any] = {"parsed": None, "parse_ok": False, "scores": {}}
        error, output, media = answer.error, None, []
        if error is None:
            try:
                read = scored(self.task, row, answer.output)
                output = plain_output(answer.output, row.id, self.folder)
                media = keep_media(self.adapter, row, self.folder) if index < KEPT_MEDIA else []
            except Exception as fault:  # noted per sample, so that one odd answer cannot end a long run
                error = f"{type(fault).__name__}: {fault}"
        line = {
            "schema": SAMPLE_SCHEMA,
            "index": index,
            "id": row.id,
            "cluster": str(row.meta.get("cluster", row.id)),
            "seed": self.shared["generation"].get("seed"),
            "prompt": row.prompt,
            "output": output,
            **read,
            "target": clean(row.meta.get("label")),
            "steps": answer.steps,
            "finished": answer.finished,
            "media": media,
            **self.shared,
            "hash": {"row": self.digests[index]},
        }
        return line if error is None else {**line, "error": error}


def _checked_rows(task: Task) -> list[Row]:
    rows, seen = list(task.rows()), set()
    if not rows:
        raise UserError(f"task {task.name} has no rows; check its data and n")
    for row in rows:
        if row.id in seen:
            raise UserError(f'task {task.name}: two rows are called "{row.id}"; ids must be unique')
        seen.add(row.id)
    return rows


def _stop_if_all_failed(task: Task, records: Sequence[Mapping[str, Any]]) -> None:
    if all("error" in record for record in records):
        raise UserError(
            f"task {task.name}: every answer of a batch failed, the first with {records[0]['error']}"
        )
