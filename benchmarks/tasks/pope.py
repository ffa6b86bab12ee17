"""POPE from its official files: JSON lines (COCO) or JSON arrays (GQA, A-OKVQA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.benchmarks.metrics.polling import POLLING_HEADLINE, POLLING_METRICS, polling_scores
from mmalign.benchmarks.parsers.yesno import YES_NO_PARSERS
from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.benchmarks.tasks.files import find_media, open_records, require
from mmalign.errors import UserError
from mmalign.evals.parser import Parser, pick_parser
from mmalign.types import Row

__all__ = ["OFFICIAL_COUNTS", "Pope"]

OFFICIAL_COUNTS = {
    f"coco_pope_{kind}.json": {"questions": 3000, "yes": 1500, "no": 1500, "images": 500}
    for kind in ("random", "popular", "adversarial")
}
"""What the COCO files of the POPE repository hold; a copy with 2910 random questions is in circulation."""


class Pope(CompositeTask):
    """Object-existence polling on a file of ``{"question_id", "image", "text", "label"}`` records.

    *Reference:* Li et al. (2023), arXiv 2305.10355.
    *Differs from paper:* an unread answer is wrong and reported (the paper's script reads it as yes; choose
    ``parser="pope-reference"`` for that), and intervals resample images.

    Args:
        data: the file.
        image_dir: folder of the pictures; None evaluates answers made elsewhere.
        split: a name for the results; by default the file's.
        n: only the first n questions.
        seed: not used, the file decides; here so that every task takes the same options.
        parser: a rule of :data:`~mmalign.benchmarks.parsers.yesno.YES_NO_PARSERS`.
        suffix: added to every question, e.g. "Answer with one word."
        counts: ``official`` checks files with an official name against :data:`OFFICIAL_COUNTS`; ``any`` does not.
    """

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        image_dir: str | Path | None = None,
        split: str | None = None,
        n: int | None = None,
        seed: int = 0,
        parser: str | Parser = "yesno",
        suffix: str = "",
        counts: str = "official",
    ) -> None:
        if counts not in ("official", "any"):
            raise UserError(f'counts is "{counts}"; expected official or any')
        self._parser = pick_parser(parser, YES_NO_PARSERS)
        info = {
            "source": Path(data).name if data else None,
            "split": split or (Path(data).stem if data else None),
        }
        super().__init__("pope", "1", self._parser.label, POLLING_METRICS, info, POLLING_HEADLINE)
        self._data, self._image_dir, self._n = data, image_dir, n
        self._suffix, self._counts = suffix, counts

    def rows(self) -> list[Row]:
        """The questions in the file's order; an image is one cluster."""
        records = open_records(self._data, task=self.name)
        if self._counts == "official":
            check_counts(Path(str(self._data)), records)
        return [self._row(number, record) for number, record in enumerate(records[: self._n])]

    def _row(self, number: int, record: Mapping[str, Any]) -> Row:
        where = f"{self._data}: item {number}"
        label = str(require(record, "label", where)).strip().lower()
        if label not in ("yes", "no"):
            raise UserError(f'{where}: label is "{record["label"]}"; expected yes or no')
        text, image = str(require(record, "text", where)), str(require(record, "image", where))
        media = find_media([image], self._image_dir, where=where) if self._image_dir is not None else ()
        prompt = f"{text} {self._suffix}".strip()
        identifier = f"{number}-{record.get('question_id', number)}"
        return Row(id=identifier, prompt=prompt, media=media, meta={"label": label, "cluster": image})

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Read yes or no and compare with the label."""
        read = self._parser(str(output))
        return {"parsed": read.value, "parse_ok": read.ok, "scores": polling_scores(read, row.meta["label"])}


def check_counts(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Compare a file that has an official name with the published counts.

    Raises:
        UserError: when they differ: numbers from it could not be compared with published ones.
    """
    expected = OFFICIAL_COUNTS.get(path.name)
    labels = [record.get("label") for record in records]
    found = {
        "questions": len(records),
        "yes": labels.count("yes"),
        "no": labels.count("no"),
        "images": len({record.get("image") for record in records}),
    }
    if expected is not None and found != expected:
        wrong = [key for key in found if found[key] != expected[key]]
        gap = ", ".join(f"{found[key]} {key} instead of {expected[key]}" for key in wrong)
        raise UserError(
            f"{path} is not the official POPE file: {gap}; give --counts any to use it all the same"
        )
