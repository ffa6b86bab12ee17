"""The rows file of a split: opened once, its mapping said once, every row looked at, its content held to the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.data.rows import Rows, open_rows
from mmalign.engine.atomic import write_json
from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.config.schema import DataConfig

__all__ = ["split_rows"]


def split_rows(cfg: DataConfig, split: str, run_dir: Path, *, write: bool = True) -> Rows:
    """Open the file of a split.

    The file's fingerprint is written to ``data.json`` of the run folder, so that a resumed run whose file has changed
    stops instead of ending with other numbers.

    Args:
        cfg: the ``data`` section; the split must name a file.
        split: ``train``, ``validation`` or ``test``.
        run_dir: the run folder.
        write: whether this process writes and prints.

    Raises:
        UserError: for a file that cannot be read, a bad row, or a file that has changed since the run began.
    """
    source = getattr(cfg, split)
    rows = open_rows(source, media_root=cfg.image_root, max_rows=cfg.max_rows, columns=cfg.columns)
    _hold(run_dir / "data.json", split, rows, write=write)
    if cfg.check_rows:
        for _ in rows:
            pass
    if write and rows.mapping.dialect.name != "trl":
        print(f"{source}: {rows.mapping.sentence()}", file=sys.stderr)
    return rows


def _hold(file: Path, split: str, rows: Rows, *, write: bool) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    now = {"path": str(rows.path), "rows": len(rows), "fingerprint": rows.fingerprint}
    before = known.get(split)
    if before is not None and before["fingerprint"] != now["fingerprint"]:
        raise UserError(
            f"{rows.path}: has changed since this run began ({before['rows']} rows then, {now['rows']} now); "
            "give another --output_dir, or put the file back to resume"
        )
    if before is None and write:
        write_json(file, {**known, split: now})
