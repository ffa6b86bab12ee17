"""Filling the page.  Jinja2 escapes everything that a model or a user wrote; the page runs no script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmalign.report.collect import Run
from mmalign.report.forest import Scale
from mmalign.report.headline import VERDICTS, Line, Section, headline_sections, number, pretty, span
from mmalign.report.plots import panels
from mmalign.report.quality import claim_view, label_table, quality_tables
from mmalign.report.sentences import exhibits, fact_types
from mmalign.report.transfer import transfer_view
from mmalign.report.works import works

__all__ = ["render"]

_STAGES = {
    "sft": "Supervised start",
    "reward_model": "Reward model",
    "ppo": "PPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "dpo": "DPO",
    "pathwise": "Gradient through the sampler",
    "personalise": "A new word",
    "iterate": "Iterative loop",
    "transfer": "Transfer, mean over tasks",
}


def render(run: Run) -> str:
    """Return the whole page as text."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "pretty": pretty, "span": span}
    template = environment.get_template("report.html.j2")
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))  # our own file
    sections = headline_sections(run)
    galleries = _galleries(sections)
    types = galleries[0]["types"] if galleries else []
    return template.render(
        title=_title(run),
        style=style,
        run=run,
        command=run.env.get("command") or "",
        sections=sections,
        cards=_cards(sections),
        scale=Scale,
        verdicts=VERDICTS,
        galleries=galleries,
        works=[(section, shown) for section in sections if (shown := works(section))],
        curves=[(_STAGES.get(stage, stage), _drawn(records, types)) for stage, records in _by_interest(run)],
        quality=quality_tables(run),
        labels=label_table(run.labels),
        claim=claim_view(run.claim),
        transfer=transfer_view(run.transfer),
        environment=_environment(run.env),
    )


def _title(run: Run) -> str:
    found = re.search(r"^recipe:\s*(\S+)", run.config, flags=re.MULTILINE)
    return found.group(1).upper() if found else run.folder.name


def _cards(sections: list[Section]) -> list[dict[str, Any]]:
    """Up to four key figures: the first headline metric of each setting, then the others of the first."""
    if not sections:
        return []
    task = [section for section in sections if section.task == sections[0].task]
    chosen: list[tuple[Section, Line]] = [
        (section, section.top_lines[0]) for section in task if section.top_lines
    ]
    rest = [line for line in sections[0].top_lines[1:] if "," not in line.label or "macro" in line.metric]
    chosen += [(sections[0], line) for line in rest]
    return [_card(section, line) for section, line in chosen[:4]]


def _card(section: Section, line: Line) -> dict[str, Any]:
    first, last = line.before.get("value"), (line.after or {}).get("value")
    relative = None
    if line.percent and line.before.get("higher_is_better") is False and first and last is not None:
        relative = f"{100 * (last - first) / first:+.0f} %".replace("-", "\u2212")
    return {"section": section, "line": line, "relative": relative}


def _galleries(sections: list[Section]) -> list[dict[str, Any]]:
    shown = []
    for section in sections:
        found = exhibits(section)
        if found:
            shown.append({"section": section, "exhibits": found, "types": fact_types(section)})
    return shown


def _by_interest(run: Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """Policy stages first: they are what the reader came for."""
    late = {"sft", "reward_model"}
    return sorted(run.curves.items(), key=lambda item: item[0] in late)


def _drawn(records: list[dict[str, Any]], types: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "svg": Markup(panel.svg),  # drawn by matplotlib, which escapes its text
            "summary": panel.summary,
            "legend": panel.legend,
        }
        for panel in panels(records, types)
    ]


def _environment(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Environment facts as pairs, nested ones joined."""
    pairs = []
    for key, value in env.items():
        if key == "command":
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        pairs.append((pretty(str(key)), str(value)))
    return pairs
