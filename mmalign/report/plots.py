"""Small calm curves as inline SVG whose colours follow the page (light or dark)."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Panel", "panels", "svg"]

Series = tuple[str, list[float], list[float]]
"""Name, steps, values."""

_INK, _FAINT = "#010101", "#020202"
_LINES = ("#030301", "#030302", "#030303", "#030304", "#030305")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 3)))
_VARIABLES = {
    _INK: "var(--muted)",
    _FAINT: "var(--rule)",
    **{colour: f"var(--line{k})" for k, colour in enumerate(_LINES)},
}

_PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Reward", "mean per answer", ("rewards/mean",)),
    ("KL to the start", "nats per answer", ("kl",)),
    ("Entropy", "nats per step", ("entropy",)),
    ("Answer length", "steps", ("completion_length",)),
    ("Loss", "", ("loss",)),
    ("Policy loss", "", ("policy_loss",)),
    ("Value loss", "", ("value_loss",)),
    ("Clipped share", "of steps", ("clip_ratio",)),
    ("Accuracy", "share", ("accuracy",)),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawn panel: title, unit, the SVG, and the series in words for those who cannot see it."""

    title: str
    unit: str
    svg: str
    summary: str
    legend: tuple[tuple[str, int], ...]


def panels(records: Sequence[Mapping[str, Any]], types: Sequence[str] = ()) -> list[Panel]:
    """Return the panels of one stage: known metrics, and reward parts together in their types' colours."""
    drawn = []
    for title, unit, keys in _PANELS:
        series = [found for key in keys if (found := _series(records, key, key))]
        if series:
            drawn.append(_panel(title, unit, series, types))
        if title == "Reward":
            for name, prefix in (("Reward by part", "rewards/"), ("Watched, never paid", "watch/")):
                parts = sorted({k for r in records for k in r if k.startswith(prefix) and k not in keys})
                several = [s for key in parts if (s := _series(records, key, key.rpartition("/")[2]))]
                if several:
                    drawn.append(_panel(name, "mean per answer", several[: len(_LINES)], types))
    return drawn


def _series(records: Sequence[Mapping[str, Any]], key: str, name: str) -> Series | None:
    points = [(float(r["step"]), float(r[key])) for r in records if r.get(key) is not None and "step" in r]
    if len(points) < 2:
        return None
    return name, [x for x, _ in points], [y for _, y in points]


def _panel(title: str, unit: str, series: list[Series], types: Sequence[str]) -> Panel:
    series = sorted(series, key=lambda s: (types.index(s[0]) if s[0] in types else len(types), s[0]))
    first = 1 if series[0][0] in types and len(series) < len(_LINES) else 0
    words = [f"{name} goes from {ys[0]:.3g} to {ys[-1]:.3g}" for name, _, ys in series]
    legend = tuple((name, k) for k, (name, _, _) in enumerate(series, start=first)) if len(series) > 1 else ()
    return Panel(title, unit, svg(series, first), f"{title}: {'; '.join(words)}.", legend)


def svg(series: Sequence[Series], first: int = 0) -> str:
    """Draw line series from colour ``first`` on; the text is the same on every call for the same data."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mmalign",
        "font.size": 9,
        "axes.linewidth": 0.6,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(3.5, 1.75))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.125, 0.15, 0.855, 0.80))
        for number, (_, xs, ys) in enumerate(series, start=first):
            _draw(axes, xs, ys, number)
        _quiet(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _draw(axes: Any, xs: list[float], ys: list[float], number: int) -> None:
    colour, dash = _LINES[number % len(_LINES)], _DASHES[number % len(_DASHES)]
    if len(ys) > 30:
        axes.plot(xs, ys, color=colour, linewidth=0.6, alpha=0.35)
        ys = _smooth(ys, len(ys) // 15)
    axes.plot(xs, ys, color=colour, linewidth=1.6, linestyle=dash, solid_capstyle="round")


def _smooth(values: list[float], half: int) -> list[float]:
    """Centred moving average with a window that shrinks at the ends."""
    result = []
    for at in range(len(values)):
        reach = min(half, at, len(values) - 1 - at)
        window = values[at - reach : at + reach + 1]
        result.append(sum(window) / len(window))
    return result


def _quiet(axes: Any) -> None:
    """Few ticks, faint horizontal rules, no box."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(length=0, colors=_INK, pad=4)
    axes.margins(x=0.01, y=0.12)


def _inline(text: str) -> str:
    """Cut the file down to the ``<svg>`` element: no prolog, no metadata, no namespace addresses, own ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", text)
    opening = r'<svg \1 aria-hidden="true" focusable="false">'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', opening, text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return re.sub(r"\n\s*", "\n", text).strip()
