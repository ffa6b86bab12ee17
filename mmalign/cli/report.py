"""``mmalign report RUN``: the HTML report, from files alone."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, run_folder

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Write ``report.html`` of a run folder."""
    parser = CommandParser(
        "report", "Write report.html from the files of a run; needs neither GPU nor torch."
    )
    parser.add_argument("run_dir")
    options = parser.parse_args(list(argv))
    folder = run_folder(options.run_dir)
    from mmalign.report.build import build_report

    print(f"report: {build_report(folder)}")
    return 0
