"""The table of stage ``transfer``, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["transfer_view"]


def transfer_view(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rows per task, group means, both averages and mean costs; None where the stage did not run."""
    if not results:
        return None
    cost = results["cost"]
    return {
        "n": len(results["results"]),
        **results["average"],
        "by_group": list(results["groups"].items()),
        "trainable": f"{cost['trainable']:,.0f}",
        "head": f"{cost['head']:,.0f}",
        "saved": _megabytes(cost["saved_bytes"]),
        "seconds": f"{cost['cpu_seconds']:.1f}",
        "rows": [_row(result) for result in results["results"]],
    }


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": result["task"],
        "group": result["group"],
        "accuracy": result["accuracy"],
        "rate": f"{result['learning_rate']:g}",
        "validation": sorted(result["validation"].items(), key=lambda item: float(item[0])),
        "trainable": f"{result['trainable']:,}",
        "head": f"{result['head']:,}",
        "saved": _megabytes(result["saved_bytes"]),
        "seconds": f"{result['cpu_seconds']:.1f}",
    }


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}"
