"""What ``mmalign data check`` finds in a file: rows that cannot be read, copies, leaks between splits, lengths, labels.

Rows are read one by one; what is kept of each are hashes of 16 bytes and four lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmalign.data.content import unreadable
from mmalign.data.duplicates import RowKeys, Seen, row_keys, text_of
from mmalign.data.lengths import LengthBias, length_bias, summary
from mmalign.data.rows import Rows, open_rows
from mmalign.errors import UserError
from mmalign.stats.intervals import wilson
from mmalign.types import Row

__all__ = ["DataReport", "Finding", "check_file"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of trouble: how many rows have it and which come first.  An ``error`` must be mended."""

    level: Literal["error", "warning"]
    kind: str
    count: int
    says: str


@dataclass(frozen=True, slots=True)
class DataReport:
    """The findings and figures of a file."""

    path: str
    rows: int
    mapping: str
    kinds: Mapping[str, int]
    findings: tuple[Finding, ...]
    lengths: Mapping[str, Mapping[str, float | int]]
    length_bias: LengthBias
    labels: Mapping[str, Any]
    media: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(finding.level == "error" for finding in self.findings)


@dataclass
class _Tally:
    """Everything that one pass over a file collects."""

    kinds: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    lacking: list[int] = field(default_factory=list)
    same: list[int] = field(default_factory=list)
    alike: list[int] = field(default_factory=list)
    swapped: list[tuple[int, int]] = field(default_factory=list)
    ids: Seen = field(default_factory=Seen)
    exact: Seen = field(default_factory=Seen)
    near: Seen = field(default_factory=Seen)
    prompts: dict[bytes, int] = field(default_factory=dict)
    media: dict[bytes, int] = field(default_factory=dict)
    media_shown: int = 0
    pairs: dict[tuple[bytes, bytes, bytes], int] = field(default_factory=dict)
    checked: dict[str, str | None] = field(default_factory=dict)


def check_file(
    source: str | Path,
    against: Sequence[str | Path] = (),
    *,
    columns: str = "auto",
    media_root: str | Path | None = None,
) -> DataReport:
    """Look at every row of a file, and for its prompts and media in other files.

    Args:
        source: the file.
        against: files of other splits, which must share no prompt with it.
        columns: the spelling of the columns of all files, ``auto`` to find out for each.
        media_root: where relative media paths start (default: each file's folder).

    Raises:
        UserError: when a file cannot be opened, or its columns contradict each other.
    """
    digests: dict[str, bytes] = {}
    rows = open_rows(source, columns=columns, media_root=media_root)
    tally = _tally(rows, digests)
    findings = _findings(tally, len(rows))
    for other in against:
        findings += _leaks(tally, open_rows(other, columns=columns, media_root=media_root), digests)
    bias = length_bias(tally.lengths.get("chosen", []), tally.lengths.get("rejected", []))
    if bias.get("biased"):
        mean = bias["difference"]
        findings.append(
            Finding(
                "warning",
                "length bias",
                bias["n"],
                f"chosen answers are {mean['value']:+.1f} words longer than rejected ones on average "
                f"[{mean['ci_low']:+.1f}, {mean['ci_high']:+.1f}]; a model can learn length instead of quality",
            )
        )
    return DataReport(
        path=str(source),
        rows=len(rows),
        mapping=rows.mapping.sentence(),
        kinds=dict(tally.kinds),
        findings=tuple(findings),
        lengths={name: summary(values) for name, values in tally.lengths.items()},
        length_bias=bias,
        labels=_label_balance(tally.labels),
        media={"shown": tally.media_shown, "distinct": len(tally.media)},
    )


def _tally(rows: Rows, digests: dict[str, bytes]) -> _Tally:
    tally = _Tally()
    for place in range(len(rows)):
        try:
            row = rows[place]
        except UserError as error:
            tally.bad.append(str(error))
            continue
        number = rows.number(place)
        _note_media(tally, row, number)
        keys = row_keys(row, digests)
        tally.ids.add(row.id.encode(), number)
        if tally.exact.add(keys.exact, number) is None:
            tally.near.add(keys.near, number)
        tally.prompts.setdefault(keys.prompt, number)
        for key in keys.media:
            tally.media.setdefault(key, number)
        tally.media_shown += len(keys.media)
        _note_answers(tally, row, keys, number)
    return tally


def _note_media(tally: _Tally, row: Row, number: int) -> None:
    for item in (*row.media, *row.chosen_media, *row.rejected_media):
        name = item if isinstance(item, str) else ""
        if not name or name not in tally.checked:
            tally.checked[name] = unreadable(item)
        problem = tally.checked[name]
        if problem:
            tally.unreadable.append(f"row {number}: {problem}")


def _note_answers(tally: _Tally, row: Row, keys: RowKeys, number: int) -> None:
    paired = bool(keys.chosen or keys.rejected)
    label = row.meta.get("label")
    kind = "pairs" if paired else "prompts" if row.completion is None else "answers"
    tally.kinds[kind] += 1
    _note_length(tally, "prompt", row.prompt)
    if label is not None:
        tally.labels[str(label)] += 1
    if not paired:
        if row.completion is not None:
            _note_length(tally, "completion", row.completion)
        return
    if not keys.chosen or not keys.rejected:
        tally.lacking.append(number)
        return
    _note_length(tally, "chosen", row.chosen)
    _note_length(tally, "rejected", row.rejected)
    if keys.chosen == keys.rejected:
        exact = text_of(row.chosen) == text_of(row.rejected)
        (tally.same if exact else tally.alike).append(number)
    mirrored = tally.pairs.get((keys.prompt, keys.rejected, keys.chosen))
    if mirrored is not None and keys.chosen != keys.rejected:
        tally.swapped.append((number, mirrored))
    tally.pairs.setdefault((keys.prompt, keys.chosen, keys.rejected), number)


def _note_length(tally: _Tally, name: str, value: Any) -> None:
    tally.lengths.setdefault(name, []).append(len(text_of(value).split()))


def _findings(tally: _Tally, rows: int) -> list[Finding]:
    found = [
        _finding("error", "unreadable row", tally.bad),
        _finding("error", "unreadable media", tally.unreadable),
        _finding("error", "half a pair", _rows(tally.lacking), "chosen or rejected is missing: "),
        _finding("error", "identical pair", _rows(tally.same), "chosen and rejected are the same: "),
        _finding("error", "contradiction", _both(tally.swapped), "the same pair the other way round: "),
        _finding("error", "id twice", _both(tally.ids.twice)),
        _finding(
            "warning", "nearly identical pair", _rows(tally.alike), "equal but for case and punctuation: "
        ),
        _finding("warning", "exact duplicate", _both(tally.exact.twice)),
        _finding(
            "warning", "near duplicate", _both(tally.near.twice), "equal but for case and punctuation: "
        ),
    ]
    if len(tally.labels) == 1 and rows > 1:
        only = next(iter(tally.labels))
        found.append(Finding("warning", "label balance", rows, f"every label is {only}"))
    return [finding for finding in found if finding.count]


def _leaks(tally: _Tally, other: Rows, digests: dict[str, bytes]) -> list[Finding]:
    """Prompts (with their media) and media that another file has too."""
    prompts: list[tuple[int, int]] = []
    media: list[tuple[int, int]] = []
    bad: list[str] = []
    for place in range(len(other)):
        try:
            keys = row_keys(other[place], digests)
        except UserError as error:
            bad.append(str(error))
            continue
        if keys.prompt in tally.prompts:
            prompts.append((tally.prompts[keys.prompt], other.number(place)))
        shared = [tally.media[key] for key in keys.media if key in tally.media]
        if shared:
            media.append((shared[0], other.number(place)))
    name = str(other.path)
    found = [
        _finding("error", "unreadable row", bad),
        _finding("error", "prompt leak", _both(prompts), f"prompts of {name} are in this file: "),
        _finding("warning", "shared media", _both(media), f"media of {name} are in this file: "),
    ]
    return [finding for finding in found if finding.count]


def _label_balance(labels: Counter[str]) -> dict[str, Any]:
    total = sum(labels.values())
    return {
        name: {"n": count, "share": wilson(count, total).as_dict()} for name, count in sorted(labels.items())
    }


def _finding(level: Literal["error", "warning"], kind: str, each: Sequence[str], lead: str = "") -> Finding:
    more = f" and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
    return Finding(level, kind, len(each), f"{lead}{'; '.join(each[:_SHOWN])}{more}")


def _rows(numbers: Sequence[int]) -> list[str]:
    return [f"row {number}" for number in numbers]


def _both(places: Sequence[tuple[int, int]]) -> list[str]:
    return [f"row {one} = row {other}" for one, other in places]
