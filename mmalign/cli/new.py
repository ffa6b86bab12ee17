"""``mmalign new modality NAME`` and ``new reward NAME``: a plug-in package that already passes its tests."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from mmalign.cli.arguments import CommandParser
from mmalign.errors import UserError

__all__ = ["main", "write_plugin"]

KINDS = ("modality", "reward")


def main(argv: Sequence[str]) -> int:
    """Write the package and say how to go on."""
    parser = CommandParser(
        "new", "Write a plug-in package that passes the conformance suite; then make it yours."
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="lower case letters, digits and underscores")
    parser.add_argument(
        "--output_dir", "--output-dir", type=Path, default=Path(), help="where to put it (default: here)"
    )
    options = parser.parse_args(list(argv))
    folder = write_plugin(options.kind, options.name, options.output_dir)
    print(f"wrote {folder}; next:\n  cd {folder}\n  pip install -e .\n  python -m pytest tests")
    return 0


def write_plugin(kind: str, name: str, where: Path) -> Path:
    """Write ``mmalign-NAME`` under ``where`` and return its folder.

    Raises:
        UserError: for a name that cannot be a Python package, one already taken, or an existing folder.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name}: expected a name of lower case letters, digits and underscores, such as my_{kind}"
        )
    _refuse_taken(kind, name)
    folder = where / f"mmalign-{name}"
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another name or --output_dir")
    words = {"name": name, "package": f"mmalign_{name}", "Class": name.title().replace("_", "")}
    for path, item in _templates(files("mmalign") / "cli" / "templates" / kind):
        target = folder / path.replace("package/", f"mmalign_{name}/").replace("recipe.yaml", f"{name}.yaml")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(item.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return folder


def _refuse_taken(kind: str, name: str) -> None:
    from mmalign import registry

    group = {"modality": "modalities", "reward": "rewards"}[kind]
    found = registry.entries(group).get(name)
    if found:
        raise UserError(f"{name}: {group} already has this name, from {found[0].package}; choose another")


def _templates(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if item.is_dir():
            found += _templates(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".tmpl"):
            found.append((prefix + item.name.removesuffix(".tmpl"), item))
    return found
