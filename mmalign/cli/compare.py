"""``mmalign compare A B``: two runs, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser, run_folder

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Print the paired differences of two run folders."""
    parser = CommandParser("compare", "Compare two runs from their samples.jsonl, paired by sample.")
    parser.add_argument("a", metavar="A", help="a run folder")
    parser.add_argument("b", metavar="B", help="another run folder")
    options = parser.parse_args(list(argv))
    first, second = run_folder(options.a), run_folder(options.b)
    from mmalign.report.compare import compare_runs

    print(compare_runs(first, second))
    return 0
