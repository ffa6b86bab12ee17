"""LLaMA-Factory's alpaca columns: ``instruction``/``input`` with ``output``, or ``chosen`` and ``rejected``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.data.columns.dialect import Dialect, Example
from mmalign.data.columns.history import earlier_turns
from mmalign.data.columns.turns import answer_of, as_prompt
from mmalign.errors import UserError

__all__ = ["DIALECT"]


def _convert(record: Mapping[str, Any], where: str) -> Example:
    if "instruction" not in record:
        raise UserError(f"{where}: has no column 'instruction', only {sorted(record)}")
    asked = [str(record[name]) for name in ("instruction", "input") if record.get(name)]
    turns = [*earlier_turns(record.get("history"), where), {"role": "user", "content": "\n".join(asked)}]
    if record.get("system"):
        turns = [{"role": "system", "content": str(record["system"])}, *turns]
    paired = "chosen" in record or "rejected" in record
    return Example(
        prompt=as_prompt(turns),
        completion=None if paired else record.get("output") or None,
        chosen=answer_of(record.get("chosen"), "chosen", where),
        rejected=answer_of(record.get("rejected"), "rejected", where),
        label=record.get("kto_tag", record.get("label")),
        tagged=True,
    )


DIALECT = Dialect(
    name="alpaca",
    title="LLaMA-Factory (alpaca)",
    markers=frozenset({"instruction"}),
    fields={
        "instruction": "prompt",
        "input": "prompt (second line)",
        "output": "completion",
        "history": "prompt (earlier turns)",
        "system": "prompt (system turn)",
        "chosen": "chosen",
        "rejected": "rejected",
        "kto_tag": "label",
        "label": "label",
    },
    convert=_convert,
)
"""LLaMA-Factory's alpaca columns."""
