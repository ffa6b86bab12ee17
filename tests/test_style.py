"""The limits of the code style, in docs/style.md's words: small files, small functions, everything named."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("mmalign", "modalities", "rewards", "benchmarks", "scripts")
MAX_FILE, MAX_FUNCTION, MAX_DEPTH = 300, 60, 2
BANNED_NAMES = ("utils", "helpers", "manager", "common", "misc")
BANNED_TEXT = {
    r"\bTO" + r"DO\b": "unfinished work",
    r"\bFIX" + r"ME\b": "unfinished work",
    r"Not" + r"ImplementedError": "a stub",
    r"pytest\.sk" + r"ip": "a test that does not run",
    r"^\s*(import|from) (pickle|dill|cloudpickle)\b": "pickle",
    r"trust_remote" + r"_code\s*=\s*True": "remote code",
    r"weights_only\s*=\s*Fal" + "se": "pickle",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files(*folders: str) -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return tuple(
        ROOT / name for name in sorted(set(listed)) if name.endswith(".py") and (ROOT / name).is_file()
    )


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def shown(file: Path, node: ast.AST | None = None) -> str:
    return f"{file.relative_to(ROOT)}" + (f":{node.lineno}" if node is not None else "")  # type: ignore[attr-defined]


def functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, Function))


def public(file: Path) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public top-level functions and classes, and the public methods of public classes."""
    for node in tree(file).body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, Function) and not item.name.startswith("_"):
                        yield f"{node.name}.{item.name}", item


def test_files_are_short() -> None:
    long = {
        shown(f): n for f in files(*FOLDERS, "tests") if (n := len(f.read_text().splitlines())) > MAX_FILE
    }
    assert not long, f"files of more than {MAX_FILE} lines: {long}"


def test_functions_are_short() -> None:
    long = [
        f"{shown(file, node)} {node.name}: {node.end_lineno - node.lineno + 1}"  # type: ignore[operator]
        for file in files(*FOLDERS)
        for node in functions(file)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION  # type: ignore[operator]
    ]
    assert not long, f"functions of more than {MAX_FUNCTION} lines: {long}"


def test_no_drawer_names() -> None:
    bad = [shown(f) for f in files(*FOLDERS) if set(re.split(r"[_.]", f.name.lower())) & set(BANNED_NAMES)]
    assert not bad, f"name files after what they hold: {bad}"


def test_public_functions_name_their_arguments() -> None:
    bad = [
        f"{shown(file, node)} {name}"
        for file in files(*FOLDERS)
        for name, node in public(file)
        if isinstance(node, Function) and node.args.kwarg is not None
    ]
    assert not bad, f"public functions with **kwargs: {bad}"


def test_public_names_are_documented() -> None:
    everything = [(file, name, node) for file in files(*FOLDERS) for name, node in public(file)]
    bare = [f"{shown(file, node)} {name}" for file, name, node in everything if not ast.get_docstring(node)]
    modules = [shown(f) for f in files(*FOLDERS) if f.read_text().strip() and not ast.get_docstring(tree(f))]
    assert not bare and not modules, f"undocumented: {bare + modules}"


def test_inheritance_is_shallow() -> None:
    bases: dict[str, list[str]] = {}
    for file in files(*FOLDERS):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]

    def depth(name: str) -> int:
        return max(
            (1 + depth(base) for base in bases.get(name, []) if base in bases and base != name), default=0
        )

    deep = {name: depth(name) for name in bases if depth(name) > MAX_DEPTH}
    assert not deep, f"classes more than {MAX_DEPTH} below their first ancestor: {deep}"


@pytest.mark.parametrize("pattern", BANNED_TEXT)
def test_banned_text(pattern: str) -> None:
    found = re.compile(pattern, re.MULTILINE)
    bad = [shown(file) for file in files(*FOLDERS, "tests") if found.search(file.read_text(encoding="utf-8"))]
    assert not bad, f"{BANNED_TEXT[pattern]} in {bad}"


def test_nobody_asks_for_a_modality_by_name() -> None:
    asks = re.compile(r"\bmodality\s*(==|!=|in [\[({])|\badapter\.name\s*(==|!=|in [\[({])")
    bad = [shown(file) for file in files(*FOLDERS) if asks.search(file.read_text(encoding="utf-8"))]
    assert not bad, f"the core asks for capabilities, never for a modality's name; see {bad}"


def test_nothing_is_evaluated() -> None:
    calls = [
        shown(file, node)
        for file in files(*FOLDERS)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec")
    ]
    assert not calls, f"eval or exec in {calls}"


def test_annotations_are_strings() -> None:
    bad = [
        shown(file)
        for file in files(*FOLDERS)
        if any(functions(file))
        and "from __future__ import annotations" not in file.read_text(encoding="utf-8")
    ]
    assert not bad, f"no `from __future__ import annotations` in {bad}"
