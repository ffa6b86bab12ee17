"""From a claim to run configurations: which folder, which overrides, and that arms are held equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.claims.definition import Arm, Claim, as_overrides
from mmalign.claims.results import Cell, cell_folder
from mmalign.config.load import config_dict, load_config
from mmalign.errors import UserError, nearest
from mmalign.pipeline.context import SHARED_STAGES

if TYPE_CHECKING:
    from mmalign.config.schema import RunConfig

__all__ = ["arm_config", "as_flags", "check_equal", "find_claim", "link_reused", "narrowed"]


def find_claim(name: str) -> Claim:
    """A registered claim's definition, or that of ``module:ATTRIBUTE``.

    Raises:
        UserError: when there is no such claim.
    """
    if ":" in name:
        import importlib

        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"claim {name}: cannot be imported ({error})") from error
    else:
        from mmalign import registry

        found = registry.load("claims", name)
    if not isinstance(found, Claim):
        raise UserError(
            f"claim {name}: is a {type(found).__name__}, expected a mmalign.claims.definition.Claim"
        )
    return found


def narrowed(claim: Claim, arms: Sequence[str] = (), starts: Sequence[str] = ()) -> Claim:
    """The claim with some arms (and those they reuse) and some starts only; empty keeps all.

    Statements that need an arm that was left out come out inconclusive.

    Raises:
        UserError: for a name the claim does not have.
    """
    by_name = {arm.name: arm for arm in claim.arms}
    for what, wanted, known in (("arms", arms, by_name), ("starts", starts, claim.starts)):
        for name in wanted:
            if name not in known:
                raise UserError(f"--{what}: claim {claim.name} has no {name!r}{nearest(name, known)}")
    keep = set(arms)
    for arm in reversed(claim.arms):
        if arm.name in keep and arm.reuses:
            keep.add(arm.reuses)
    return replace(
        claim,
        arms=tuple(arm for arm in claim.arms if not arms or arm.name in keep or arm.kind == "start"),
        starts={name: changes for name, changes in claim.starts.items() if not starts or name in starts},
    )


def arm_config(claim: Claim, arm: Arm, cell: Cell, root: Path, *, quick: bool) -> RunConfig:
    """The run configuration of one arm in one cell.

    Later changes win: the claim's, ``quick``, the start's, the arm's; then the seed, the folder, the
    stages and the run that is reused.
    """
    folder = cell_folder(root, cell)
    changes: dict[str, Any] = {
        **as_overrides(claim.overrides),
        **(as_overrides(claim.quick) if quick else {}),
        **as_overrides(claim.starts[cell.start]),
        **as_overrides(arm.overrides),
        "seed": cell.seed,
        "output_dir": str(folder / arm.name),
        "stages": list(arm.stages),
        "reuse_from": None if arm.reuses is None else str(folder / arm.reuses),
    }
    return load_config(claim.recipe, as_flags(changes))


def as_flags(changes: Mapping[str, Any]) -> list[str]:
    """Dotted keys and values as ``--key=value`` flags; lists are joined by commas, ``None`` is null."""
    flags = []
    for key, value in changes.items():
        if isinstance(value, list | tuple):
            text = ",".join(str(item) for item in value)
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = "null" if value is None else str(value)
        flags.append(f"--{key}={text}")
    return flags


def check_equal(claim: Claim, *, quick: bool) -> list[str]:
    """Check that train arms, and starts, differ in nothing below ``claim.equal``; return the keys compared.

    This is what makes "at equal steps, samples and KL coefficient" true and not just said.

    Raises:
        UserError: naming the first key in which two arms differ.
    """
    arms = [arm for arm in claim.arms if arm.kind == "train"]
    if not arms:
        return []
    first_start = next(iter(claim.starts))

    def config(arm: Arm, start: str) -> dict[str, Any]:
        return _flat(config_dict(arm_config(claim, arm, Cell(start, 0), Path("x"), quick=quick)))

    wanted = config(arms[0], first_start)
    keys = [key for key in wanted if _below(key, claim.equal) and not _below(key, claim.vary)]
    for arm in arms[1:]:
        names = f"arms {arms[0].name} and {arm.name}"
        _refuse_difference(claim, names, wanted, config(arm, first_start), keys)
    for start, changes in claim.starts.items():
        names = f"starts {first_start} and {start}"
        own = {*as_overrides(changes), *as_overrides(claim.starts[first_start])}
        shared = [key for key in keys if key not in own]
        _refuse_difference(claim, names, wanted, config(arms[0], start), shared)
    return sorted(keys)


def _refuse_difference(
    claim: Claim, names: str, wanted: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]
) -> None:
    for key in keys:
        if other.get(key) != wanted[key]:
            raise UserError(
                f"claim {claim.name}: {names} differ in {key} ({wanted[key]!r}, {other.get(key)!r}), "
                "which the claim holds equal"
            )


def link_reused(claim: Claim, arm: Arm, folder: Path) -> None:
    """Make an arm that others reuse complete: link the shared stages that it took over itself.

    Relative links, so that the output folder may be moved.
    """
    if arm.reuses is None or not any(other.reuses == arm.name for other in claim.arms):
        return
    for stage in SHARED_STAGES:
        source = folder / arm.reuses / "stages" / stage
        target = folder / arm.name / "stages" / stage
        if stage not in arm.stages and source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path("..", "..", arm.reuses, "stages", stage), target_is_directory=True)
            files = folder / arm.name / stage
            if (folder / arm.reuses / stage).is_dir() and not files.exists():
                files.symlink_to(Path("..", arm.reuses, stage), target_is_directory=True)


def _below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
