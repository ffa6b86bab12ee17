"""``mmalign claims list`` and ``mmalign claims run NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmalign.cli.arguments import CommandParser
from mmalign.errors import UserError

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """List claims with their last verdict, or run one; exit 0 only when every must-hold statement holds."""
    parser = CommandParser(
        "claims", "A claim is a paper's statement as an experiment: arms, controls, seeds, verdict."
    )
    parser.add_argument("action", choices=("list", "run"))
    parser.add_argument("name", nargs="?", help="the claim to run")
    parser.add_argument("--seeds", type=int, help="runs per arm and start (default 5, with --quick 2)")
    parser.add_argument(
        "--quick", action="store_true", help="a small version: the machinery runs, verdicts are rough"
    )
    parser.add_argument("--output_dir", "--output-dir", type=Path, help="default: runs/claims/NAME[-quick]")
    parser.add_argument(
        "--workers", type=int, help="processes at once, one thread each (default: one per core)"
    )
    parser.add_argument("--arms", type=_names, default=(), help="only these arms, separated by commas")
    parser.add_argument("--starts", type=_names, default=(), help="only these starts, separated by commas")
    options = parser.parse_args(list(argv))
    from mmalign.claims.run import list_claims, run_claim

    if options.action == "list":
        print(list_claims())
        return 0
    if options.name is None:
        raise UserError("claims run: name the claim to run; mmalign claims list shows them")
    return run_claim(
        options.name,
        seeds=options.seeds,
        quick=options.quick,
        output_dir=options.output_dir,
        workers=options.workers,
        arms=options.arms,
        starts=options.starts,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
