"""The picture of a benchmark: one panel per case, one bar per variant with its spread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["save_plot"]


def save_plot(record: Mapping[str, Any], path: Path) -> None:
    """Draw median CPU seconds per step (line: smallest to largest sample) and write an SVG file."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    cases = record["cases"]
    rows = sum(len(case["variants"]) for case in cases.values())
    with matplotlib.rc_context({"svg.hashsalt": "mmalign", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.0, 0.9 + 0.6 * len(cases) + 0.22 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        heights = [len(case["variants"]) for case in cases.values()]
        axes = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)
        for axis, (name, case) in zip(axes[:, 0], cases.items(), strict=True):
            _draw(axis, name, case)
        axes[-1, 0].set_xlabel("CPU seconds per step, 1 thread")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(axis: Any, name: str, case: Mapping[str, Any]) -> None:
    names = list(case["variants"])
    spreads = [case["variants"][variant]["cpu_s"] for variant in names]
    middle = [s["median"] for s in spreads]
    error = [[s["median"] - s["low"] for s in spreads], [s["high"] - s["median"] for s in spreads]]
    colours = ["#4c72b0" if variant.startswith("mmalign") else "#999999" for variant in names]
    places = range(len(names))
    axis.barh(places, middle, xerr=error, color=colours, height=0.7, error_kw={"linewidth": 0.8})
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_title(name, loc="left", fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for place, value in zip(places, middle, strict=True):
        axis.annotate(f"{value:.2f}", (0, place), xytext=(3, 0), textcoords="offset points", va="center")
