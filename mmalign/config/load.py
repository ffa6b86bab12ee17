"""From a recipe's name or a YAML file, with flags on top, to a checked configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmalign.config.explain import explain
from mmalign.config.flags import default_mapping, parse_flags
from mmalign.config.schema import RunConfig
from mmalign.errors import UserError, nearest

__all__ = [
    "config_dict",
    "config_hash",
    "dump_config",
    "load_config",
    "recipe_names",
    "save_config",
    "written_for",
]

_NOT_THE_RESULT = ("output_dir", "report_to", "report")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a shipped recipe or a YAML file and put flags such as ``--ppo.kl_coef 0.1`` on top.

    A file may start from another with ``extends: NAME-OR-PATH``; its own keys win.  Keys below
    ``own_model`` hold only where the model is not an embedded default: what suits a model of a million
    parameters would ruin a large one.

    Raises:
        UserError: for an unknown recipe, unreadable YAML, wrong keys and values (all at once), or a flag
            ``--recipe``, which would name the run after a recipe that it does not follow.
    """
    file = find_recipe(str(source))
    flags = parse_flags(overrides, RunConfig)
    if any(path == ("recipe",) for path, _ in flags):
        raise UserError(
            f"--recipe: a run is called after the recipe that it follows, here {source}; to follow another, "
            "name that one: --config X, or mmalign run X"
        )
    values = _read(file)
    if _own_model(values, flags):
        values = _read(file, own_model=True)
    values.setdefault("recipe", file.stem)
    origin: dict[tuple[str, ...], str] = {}
    for path, value in flags:
        _put(values, path, value, default_mapping(RunConfig, path[:-1]))
        origin[path] = "--" + ".".join(path)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, RunConfig, file, origin)) from None


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    folder = files("mmalign") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def find_recipe(source: str) -> Path:
    """The file of a shipped recipe's name or of a path.

    Raises:
        UserError: when there is neither.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise UserError(f"{source}: no such file; shipped recipes are {', '.join(recipe_names())}")
    if source in recipe_names():
        return Path(str(files("mmalign") / "recipes" / f"{source}.yaml"))
    known = recipe_names()
    raise UserError(
        f"{source}: no such recipe{nearest(source, known)}; shipped: {', '.join(known)}, or give a path"
    )


def written_for(cfg: RunConfig) -> str | None:
    """The modality that the shipped recipe of ``cfg`` names, where ``cfg`` asks it for another; else ``None``."""
    if cfg.recipe not in recipe_names():
        return None
    own = _read(find_recipe(cfg.recipe)).get("modality", RunConfig.model_fields["modality"].default)
    return None if own == cfg.modality else str(own)


def config_dict(cfg: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return cfg.model_dump(mode="json")


def config_hash(cfg: RunConfig) -> str:
    """SHA-256 of everything that can change a result; folder, trackers and report are left out."""
    values = {key: value for key, value in config_dict(cfg).items() if key not in _NOT_THE_RESULT}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dump_config(cfg: RunConfig) -> str:
    """The configuration as YAML; ``load_config`` on it gives the same configuration."""
    text: str = yaml.safe_dump(config_dict(cfg), sort_keys=False)
    return text


def save_config(cfg: RunConfig, path: Path) -> None:
    """Write the configuration as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_config(cfg), encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; raise on a repeated key."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _own_model(values: dict[str, Any], flags: Sequence[tuple[tuple[str, ...], Any]]) -> bool:
    """Whether the file or a flag names a model that is not one of a world's embedded defaults."""
    section = values.get("model")
    name = section.get("model_name_or_path") if isinstance(section, dict) else None
    name = dict(flags).get(("model", "model_name_or_path"), name)
    return name is not None and str(name).partition(":")[0] != "embedded"


def _read(file: Path, behind: tuple[Path, ...] = (), *, own_model: bool = False) -> dict[str, Any]:
    if file.resolve() in behind:
        raise UserError(f"{file}: extends itself")
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{place}: not readable as YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected keys and values, got a {type(values).__name__}")
    own = values.pop("own_model", None)
    if own_model and isinstance(own, dict):
        values = _merged(values, own)
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = file.parent / str(base)
    parent = beside if beside.is_file() else find_recipe(str(base))
    return _merged(_read(parent, (*behind, file.resolve()), own_model=own_model), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "weights"
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _put(values: dict[str, Any], path: Sequence[str], value: Any, default: dict[str, Any]) -> None:
    """Set one key; a flag on one entry of a mapping keeps the mapping's other entries."""
    for place, name in enumerate(path[:-1]):
        if not isinstance(values.get(name), dict):
            values[name] = dict(default) if place == len(path) - 2 else {}
        values = values[name]
    values[path[-1]] = value
