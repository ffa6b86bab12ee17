"""``mmalign data check FILE``: what a file of rows holds and what is wrong with it, before a model is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmalign.cli.arguments import CommandParser

if TYPE_CHECKING:
    from mmalign.data.report import DataReport

__all__ = ["main", "report_tables"]


def main(argv: Sequence[str]) -> int:
    """Print the report of a file; exit 1 when something must be mended."""
    parser = CommandParser(
        "data", "Check a file of rows: columns, media, duplicates, leaks between splits, lengths, labels."
    )
    parser.add_argument("action", choices=("check",))
    parser.add_argument("file", metavar="FILE", help=".jsonl, .json, .parquet or a saved datasets folder")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="FILE", help="other splits, which must share no prompt"
    )
    parser.add_argument("--columns", default="auto", help="auto, trl, swift, alpaca or sharegpt")
    parser.add_argument("--image_root", "--image-root", help="where relative media paths start")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(list(argv))
    from mmalign.data.report import check_file

    report = check_file(options.file, options.against, columns=options.columns, media_root=options.image_root)
    if options.json:
        from dataclasses import asdict

        from mmalign.data.jsonl import dumps

        print(dumps({**asdict(report), "ok": report.ok}, indent=2))
    else:
        report_tables(report)
    return 0 if report.ok else 1


def report_tables(report: DataReport) -> None:
    """Print a report as tables."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=False)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
    console.print(
        f"[bold]{escape(report.path)}[/]: {report.rows:,} rows ({kinds or 'none readable'})", soft_wrap=True
    )
    console.print(escape(report.mapping), soft_wrap=True)
    if report.media["shown"]:
        console.print(
            f"media: {report.media['shown']:,} shown, {report.media['distinct']:,} distinct by content"
        )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("words", "n", "mean", "median", "5 %", "95 %", "longest"):
        table.add_column(name, justify="left" if name == "words" else "right")
    for name, one in report.lengths.items():
        figures = [f"{one[key]:.1f}" for key in ("mean", "median", "p05", "p95")]
        table.add_row(name, f"{one['n']:,}", *figures, str(one["max"]))
    console.print(table)
    for line in _figures(report):
        console.print(line)
    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        line = f"[{colour}]{finding.level}[/] {finding.kind} ({finding.count:,}): {escape(finding.says)}"
        console.print(line, soft_wrap=True)
    if not report.findings:
        console.print("nothing to mend")


def _figures(report: DataReport) -> list[str]:
    lines = []
    if report.length_bias.get("n"):
        mean, share = report.length_bias["difference"], report.length_bias["chosen_longer"]
        lines.append(f"chosen minus rejected: {_interval(mean, 1)} words (mean [95 % interval])")
        if share["n"]:
            lines.append(f"chosen is the longer one in {_interval(share, 100)} % of the pairs that differ")
    for name, entry in report.labels.items():
        lines.append(f"label {name}: {entry['n']:,} rows, {_interval(entry['share'], 100)} %")
    return lines


def _interval(entry: dict[str, Any], scale: float) -> str:
    low, high = (entry[key] for key in ("ci_low", "ci_high"))
    shown = f"{scale * entry['value']:.1f}"
    return shown if low is None or high is None else rf"{shown} \[{scale * low:.1f}, {scale * high:.1f}]"
