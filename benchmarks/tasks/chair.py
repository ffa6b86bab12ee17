"""CHAIR on captions of pictures whose objects are listed in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.benchmarks.metrics.chair import CHAIR_METRICS, chair_scores, read_synonyms
from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.benchmarks.tasks.files import find_media, open_records, require
from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["Chair"]


class Chair(CompositeTask):
    """Caption pictures, then count mentioned objects that are not in them.

    The file holds ``{"id", "objects": [...], "image"?}`` records, ``objects`` being everything that counts as
    present (for COCO: instance categories and the objects of the reference captions).

    *Reference:* Rohrbach et al. (2018), arXiv 1809.02156.
    *Differs from paper:* objects come from the given file; nouns are made singular by rule instead of by a
    tagger; a corpus that mentions no object has CHAIR_i null instead of a division by zero; coverage is added.

    Args:
        data: the file, JSON lines or a JSON array.
        image_dir: folder of the pictures; None evaluates captions made elsewhere.
        synonyms: file with one object a line, ``canonical, synonym, ...``; None takes the names as they are.
        split: a name for the results; by default the file's.
        n: only the first n pictures.
        seed: not used, the file decides; here so that every task takes the same options.
        prompt: what the model is asked.
    """

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        image_dir: str | Path | None = None,
        synonyms: str | Path | None = None,
        split: str | None = None,
        n: int | None = None,
        seed: int = 0,
        prompt: str = "Describe this image in detail.",
    ) -> None:
        info = {
            "source": Path(data).name if data else None,
            "split": split or (Path(data).stem if data else None),
        }
        super().__init__("chair", "1", "object-mentions.v1", CHAIR_METRICS, info)
        self._records = [] if data is None else open_records(data, task=self.name)
        self._data, self._image_dir, self._n, self._prompt = data, image_dir, n, prompt
        named = {str(name) for record in self._records for name in record.get("objects", ())}
        self._vocabulary = read_synonyms(synonyms, sorted(named) if synonyms is None else ())

    def rows(self) -> list[Row]:
        """One captioning row per picture."""
        if self._data is None:
            open_records(None, task=self.name)
        return [self._row(number, record) for number, record in enumerate(self._records[: self._n])]

    def _row(self, number: int, record: Mapping[str, Any]) -> Row:
        where = f"{self._data}: item {number}"
        identifier = str(record.get("id", record.get("image_id", number)))
        objects = require(record, "objects", where)
        if not isinstance(objects, list):
            raise UserError(f'{where}: "objects" is a {type(objects).__name__}; expected a list of names')
        media: tuple[str, ...] = ()
        if self._image_dir is not None:
            media = find_media([str(require(record, "image", where))], self._image_dir, where=where)
        return Row(id=identifier, prompt=self._prompt, media=media, meta={"objects": objects})

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Count mentioned, hallucinated and covered objects."""
        scores, parsed = chair_scores(str(output), row.meta["objects"], self._vocabulary)
        return {"parsed": parsed, "parse_ok": bool(str(output).strip()), "scores": scores}
