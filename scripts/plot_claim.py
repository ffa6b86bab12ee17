"""Draw a claim's training curves and, where its arms sweep a setting, what the setting does.

``python scripts/plot_claim.py benchmarks/claims/verdicts/fgaif.json docs/claims/fgaif.svg --arms dense sequence \\
--sweep dense 0:dense_bonus_0 0.15:dense 0.5:dense_bonus_0.5 --sweep sequence ...`` makes the figure of the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

CURVES = {
    "rewards/mean": "reward per answer",
    "kl": "KL, nats per answer",
    "completion_length": "steps per answer",
}
STYLE = {"svg.hashsalt": "mmalign", "font.size": 7, "svg.fonttype": "none", "axes.linewidth": 0.6}


def main() -> None:
    """Read ``claim.json`` and write one SVG; the same file gives the same bytes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("claim", type=Path, help="claim.json, or a recorded verdict")
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", required=True, help="arms whose training curves are drawn")
    parser.add_argument(
        "--curves", nargs="+", default=list(CURVES), metavar="KEY", help="what is drawn of them"
    )
    parser.add_argument("--sweep", nargs="+", action="append", default=[], metavar="NAME VALUE:ARM")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="LABEL=METRIC", help="what the sweep shows"
    )
    args = parser.parse_args()
    claim = json.loads(args.claim.read_text(encoding="utf-8"))
    metrics = dict(item.rsplit("=", 1) for item in args.metrics)
    columns = max(len(args.curves), len(metrics))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.4 * columns, 2.1 * (1 + bool(metrics))), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1 + bool(metrics), columns, squeeze=False)
        for axis, key in zip(axes[0], args.curves, strict=False):
            _curves(axis, claim["curves"], args.arms, key)
            _finish(axis, "step or round", CURVES.get(key, key))
        for axis, (label, key) in zip(axes[-1], metrics.items(), strict=False):
            for name, *points in args.sweep:
                _sweep(axis, claim["arms"], name, points, key)
            _finish(axis, "setting", label)
        if metrics:
            axes[-1, 0].legend(frameon=False, fontsize=6)
        for axis in [*axes[0, len(args.curves) :], *(axes[-1, len(metrics) :] if metrics else [])]:
            axis.set_visible(False)
        axes[0, 0].legend(frameon=False, fontsize=6)
        figure.savefig(args.out, format="svg", metadata={"Date": None})


def _curves(
    axis: Any, curves: Mapping[str, Mapping[str, Sequence[float]]], arms: Sequence[str], key: str
) -> None:
    for arm in arms:
        values = curves[arm].get(key, [])
        axis.plot(range(1, len(values) + 1), values, linewidth=1, label=arm)


def _sweep(
    axis: Any, arms: Mapping[str, Mapping[str, Any]], name: str, points: Sequence[str], key: str
) -> None:
    """One line over the setting through the means over seeds; every seed is a dot."""
    settings = [float(point.partition(":")[0]) for point in points]
    found = [arms[point.partition(":")[2]][key] for point in points]
    (line,) = axis.plot(settings, [entry["mean"] for entry in found], linewidth=1, label=name)
    for setting, entry in zip(settings, found, strict=True):
        seeds = entry.get("per_seed") or [entry["mean"]]
        axis.plot([setting] * len(seeds), seeds, ".", markersize=4, color=line.get_color())


def _finish(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
