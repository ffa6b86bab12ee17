"""The model card: what was trained, how well it does and what it must not be used for, as Markdown."""

from __future__ import annotations

from mmalign.report.collect import Run
from mmalign.report.headline import VERDICTS, Line, headline_sections, number, span

__all__ = ["model_card"]


def model_card(run: Run) -> str:
    """Return ``MODEL_CARD.md``: numbers come from the run's files, nothing is made up."""
    name = run.folder.name
    parts = [f"# Model card: {_plain(name)}", ""]
    trained = [stage for stage in run.stages if stage not in ("evaluate", "report", "feedback")]
    parts += [
        f"Trained with mmalign, stages: {', '.join(trained) or 'none recorded'}.{_policies(run)}",
        "",
    ]
    if run.env.get("command"):
        parts += ["## Made with", "", "```", str(run.env["command"]).replace("```", "'''"), "```", ""]
    parts += ["## Results", "", *_transfer(run)] if run.transfer else ["## Results", ""]
    for section in headline_sections(run):
        parts += [f"### {section.task}, {section.setting} (n = {section.n})", ""]
        titles = "before | after | paired difference" if section.after else "value | |"
        parts += [f"| metric | {titles} | |", "|---|---|---|---|---|"]
        parts += [_row(line) for line in section.top_lines]
        parts.append("")
    if run.evals:
        parts += [
            "Square brackets hold 95 % intervals; differences are paired over the same samples. Methods and",
            "every other metric are in `evals/*/*/results.json`, the answers in `samples.jsonl` beside it.",
            "",
        ]
    parts += [
        "## Use and limits",
        "",
        "- Evaluated on the tasks above and nothing else; behaviour elsewhere is unknown.",
        "- A lower hallucination rate is not a guarantee: check coverage and length beside it.",
        "- The feedback came from the judge named in the configuration and carries its mistakes.",
        "",
    ]
    if run.config:
        parts += ["## Configuration", "", "```yaml", run.config.rstrip().replace("```", "'''"), "```", ""]
    return "\n".join(parts)


def _policies(run: Run) -> str:
    """Which policies the tables are about."""
    if not run.before:
        return ""
    if not run.after:
        return f" Evaluated below: `{run.before}`."
    return f" Compared below: `{run.before}` (before) and `{run.after}` (after)."


def _transfer(run: Run) -> list[str]:
    """Test scores of stage ``transfer`` and both averages."""
    average = run.transfer["average"]
    rows = [
        f"| {one['task']} | {one['group']} | {100 * one['accuracy']:.1f} |" for one in run.transfer["results"]
    ]
    ends = [
        f"Mean over tasks {100 * average['tasks']:.1f} %, mean of group means {100 * average['groups']:.1f} %; rates",
        "were chosen on validation, the test was looked at once.",
    ]
    return ["| task | group | test, % |", "|---|---|---|", *rows, "", *ends, ""]


def _row(line: Line) -> str:
    unit = " %" if line.percent else ""
    cells = [line.label]
    for entry, mark, signed in (
        (line.before, unit, False),
        (line.after, unit, False),
        (line.difference, "", True),
    ):
        if entry is None:
            cells.append("")
            continue
        interval = span(entry, percent=line.percent, signed=signed)
        shown = number(entry.get("value"), percent=line.percent, signed=signed)
        cells.append(f"{shown}{mark}" + (f" [{interval}]" if interval else ""))
    cells.append(VERDICTS[line.verdict] if line.difference else "")
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable() and character not in "<>`")
