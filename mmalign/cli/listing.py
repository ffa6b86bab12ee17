"""``mmalign list``: what is installed, what failed to load and why."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign import registry
from mmalign.cli.arguments import CommandParser

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Print the plug-ins of every group; ``--names`` reads names without importing anything."""
    parser = CommandParser(
        "list", "Plug-ins by kind.  Each is loaded on its own; one that fails is shown with its error."
    )
    kinds = (*registry.GROUPS, "recipes")
    parser.add_argument("kind", nargs="?", choices=kinds, help="only this kind")
    parser.add_argument("--names", action="store_true", help="names alone, without loading anything (fast)")
    options = parser.parse_args(list(argv))
    for kind in [options.kind] if options.kind else kinds:
        print(f"{kind}:")
        lines = _recipes() if kind == "recipes" else _plugins(kind, names_only=options.names)
        print("\n".join(f"  {line}" for line in lines) if lines else "  (none installed)")
    return 0


def _plugins(group: str, *, names_only: bool) -> list[str]:
    if names_only:
        return [
            f"{name}  [{', '.join(sorted({entry.package for entry in found}))}]"
            for name, found in sorted(registry.entries(group).items())
        ]
    lines = []
    for name, package, problem in registry.status(group):
        lines.append(f"{name}  [{package}]" + (f"  FAILED: {problem}" if problem else ""))
    return lines


def _recipes() -> list[str]:
    from mmalign.config.load import recipe_names

    return recipe_names()
