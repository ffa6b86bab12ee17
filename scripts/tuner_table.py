"""Print claims about tuners as one Markdown table: accuracy, parameters, activations and time of every arm.

``python scripts/tuner_table.py benchmarks/claims/verdicts/{spt,hst,dr-tune,eva}.json`` makes the
table of docs/tuners/README.md: arms of one claim share tasks, epochs and batch; run the
claims first (``mmalign claims run spt``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = {
    "mean over tasks, %": ("average/tasks", 100.0, 1),
    "mean of groups, %": ("average/groups", 100.0, 1),
    "trained": ("cost/trainable", 1.0, 0),
    "activations, MB": ("cost/saved_bytes", 1e-6, 2),
    "CPU s per fit": ("cost/cpu_seconds", 1.0, 1),
}


def main() -> None:
    """Read recorded claims and print a row per arm that ran stage ``transfer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("claims", type=Path, nargs="+", help="claim.json files, or recorded verdicts")
    parser.add_argument("--arms", nargs="*", default=[], help="these arms only")
    args = parser.parse_args()
    print(f"| arm | claim | {' | '.join(COLUMNS)} | seeds |")
    print("|---|---|" + "---|" * (len(COLUMNS) + 1))
    for file in args.claims:
        claim = json.loads(file.read_text(encoding="utf-8"))
        for arm, metrics in claim["arms"].items():
            if "measured/average/tasks" in metrics and (not args.arms or arm in args.arms):
                cells = [_shown(metrics[f"measured/{key}"], *form) for key, *form in COLUMNS.values()]
                seeds = len(metrics["measured/average/tasks"]["per_seed"])
                print(f"| `{arm}` | {claim['claim']} | {' | '.join(cells)} | {seeds} |")


def _shown(entry: Mapping[str, Any], factor: float, digits: int) -> str:
    """A mean over seeds; scores with their interval."""
    low, high = entry["ci_low"], entry["ci_high"]
    text = f"{factor * entry['mean']:,.{digits}f}"
    if low is None or factor != 100.0:
        return text
    return f"{text} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


if __name__ == "__main__":
    main()
