"""``mmalign merge``: several trained models of one start become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.cli.arguments import CommandParser
from mmalign.errors import UserError

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

_METHODS = ("soup", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "breadcrumbs", "slerp")


def main(argv: Sequence[str]) -> int:
    """Merge model folders (adapters are merged into their base first) and write the result."""
    options = _parser().parse_args(list(argv))
    if options.out.exists():
        raise UserError(f"merge: {options.out} exists; name another folder")
    needs_base = options.method not in ("soup", "slerp")
    if needs_base and options.base is None:
        raise UserError(f"merge: method {options.method} works on differences; give --base")
    if options.method == "slerp" and len(options.models) != 2:
        raise UserError(f"merge: slerp joins two models, not {len(options.models)}")
    from mmalign import registry

    adapter = registry.load("modalities", options.modality)()
    sources = [*([options.base] if needs_base else []), *options.models]
    models = [adapter.load(source) for source in sources]
    from mmalign.tuners.merging import check_alike

    states = [model.state_dict() for model in models]
    check_alike(states, sources)
    models[0].load_state_dict(_merged(options, states))
    adapter.save(models[0], options.out)
    print(f"{options.method} of {len(options.models)} models in {options.out}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("merge", "Merge models that were trained from one start (docs/tuners/merging.md).")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders of models or adapters")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--method", choices=_METHODS, default="soup", help="how (default: the mean)")
    parser.add_argument("--base", help="what the models were trained from, for methods on differences")
    parser.add_argument(
        "--modality", default="vision", help="whose models they are (mmalign list modalities)"
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="one per model (default 1 each)"
    )
    parser.add_argument(
        "--density", type=float, default=0.5, help="share kept by ties, dare_*, magnitude_prune"
    )
    parser.add_argument("--keep", type=float, default=0.2, help="share of a row kept by breadcrumbs")
    parser.add_argument(
        "--drop-top", type=float, default=0.1, help="share of largest entries breadcrumbs drop"
    )
    parser.add_argument("--scale", type=float, default=0.4, help="factor on the sum of breadcrumbs")
    parser.add_argument("--t", type=float, default=0.5, help="share of the arc for slerp: 0 first, 1 second")
    parser.add_argument("--seed", type=int, default=0, help="of the random drops of dare_*")
    return parser


def _merged(options: argparse.Namespace, states: Sequence[Any]) -> dict[str, Any]:
    from mmalign.tuners.merging import breadcrumbs, merge_deltas, slerp, uniform_soup

    if options.method == "soup":
        return uniform_soup(states)
    if options.method == "slerp":
        return slerp(states[0], states[1], options.t)
    base, tuned = states[0], states[1:]
    if options.method == "breadcrumbs":
        return breadcrumbs(base, tuned, keep=options.keep, drop_top=options.drop_top, scale=options.scale)
    given = {"weights": options.weights, "density": options.density, "seed": options.seed}
    return merge_deltas(base, tuned, options.method, **given)
