"""The figure: margin and chosen gain over the steps, arms side by side in panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["save_figure"]

_REACH = 2
"""Steps on either side that a drawn point averages over: every step has other pairs."""
_ALWAYS = {"sigmoid": "black", "shuffled": "#aaaaaa"}
"""Arms drawn in every panel, to compare with."""
_ROWS = (("margin", "margin, nats"), ("chosen", "chosen gain, nats"))


def save_figure(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every arm with a curve and write an SVG file; the same records give the same file."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    trained = [record for record in records if record["curve"]]
    panels = list(dict.fromkeys(record["panel"] for record in trained))
    style: dict[Any, Any] = {
        "svg.hashsalt": "mmalign",
        "font.size": 7,
        "svg.fonttype": "none",
        "axes.linewidth": 0.6,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(2.4 * len(panels), 4.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(len(_ROWS), len(panels), squeeze=False, sharex=True, sharey="row")
        for column, panel in enumerate(panels):
            for row, (key, label) in enumerate(_ROWS):
                _draw(axes[row, column], trained, panel, key)
                if column == 0:
                    axes[row, column].set_ylabel(label)
            axes[0, column].set_title(panel, loc="left", fontsize=7)
            axes[0, column].legend(frameon=False, fontsize=5.5, loc="upper left", labelspacing=0.2)
            axes[-1, column].set_xlabel("step")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(axis: Any, records: Sequence[Mapping[str, Any]], panel: str, key: str) -> None:
    number = 0
    for record in records:
        name = record["name"]
        if name not in _ALWAYS and record["panel"] != panel:
            continue
        values = _smooth([point[key] for point in record["curve"]])
        colour = _ALWAYS.get(name, f"C{number}")
        number += name not in _ALWAYS
        axis.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.9, label=name)
    axis.axhline(0.0, color="#cccccc", linewidth=0.5, zorder=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average whose window shrinks at the ends."""
    drawn = []
    for at in range(len(values)):
        reach = min(_REACH, at, len(values) - 1 - at)
        window = values[at - reach : at + reach + 1]
        drawn.append(sum(window) / len(window))
    return drawn
