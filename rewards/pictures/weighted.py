"""Several plain rewards as one: a file names them, their weights and their options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.errors import UserError, nearest
from mmalign.protocols import DifferentiableReward, Reward, RewardRecipe
from mmalign.rewards.combine import WeightedSum
from mmalign.types import Rollout, Row, StepReward

__all__ = ["Weighted"]

_KEYS = ("name", "weight", "options")


class Weighted:
    """``sum_k w_k r_k`` of registered plain rewards; differentiable where every one of them is.

    ``{file: rewards.yaml}`` names a YAML list, relative paths as seen from the working directory::

        - {name: aesthetic, weight: 0.2, options: {clip: models/vit-l-14, head: models/head.safetensors}}
        - {name: jpeg_compressibility, weight: 0.01}

    Args:
        file: the list.

    Raises:
        UserError: for an unreadable file, an unknown key or name, or a reward that is a recipe.
    """

    def __init__(self, file: str) -> None:
        entries = _entries(Path(file))
        terms = {str(entry["name"]): _plain(entry, file) for entry in entries}
        if len(terms) < len(entries):
            raise UserError(f"{file}: one reward is named twice")
        self.weights = {str(entry["name"]): float(entry.get("weight", 1.0)) for entry in entries}
        self.sum = WeightedSum(terms, self.weights)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the weighted sum with the parts of every reward."""
        return self.sum(rollout)

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """The weighted sum of the rewards of answers ``[B, ...]`` themselves, ``[B]``, with gradient.

        Raises:
            UserError: when a reward cannot be differentiated.
        """
        total = torch.zeros(len(rows), device=outputs.device)
        for name, term in self.sum.terms.items():
            if not isinstance(term, DifferentiableReward):
                raise UserError(
                    f"reward {name}: cannot be differentiated (it has no score of the answers themselves)"
                )
            total = total + self.weights[name] * term.score(rows, outputs)
        return total

    def state_dict(self) -> dict[str, Any]:
        """State of every reward that has one."""
        return self.sum.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.sum.load_state_dict(state)


def _entries(file: Path) -> list[dict[str, Any]]:
    import yaml

    if not file.is_file():
        raise UserError(f"file: {file} does not exist; expected a YAML list of rewards")
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is not YAML ({str(error).splitlines()[0]})") from error
    if (
        not isinstance(entries, list)
        or not entries
        or not all(isinstance(e, dict) and "name" in e for e in entries)
    ):
        raise UserError(f"{file}: expected a list of entries {{name: ..., weight: ..., options: ...}}")
    for key in (key for entry in entries for key in entry if key not in _KEYS):
        raise UserError(f"{file}: unknown key {key!r}{nearest(str(key), _KEYS)}, only {', '.join(_KEYS)}")
    return entries


def _plain(entry: Mapping[str, Any], file: str) -> Reward:
    name, options = str(entry["name"]), dict(entry.get("options") or {})
    kind = registry.load("rewards", name)
    known = list(inspect.signature(kind).parameters)
    for key in (key for key in options if key not in known):
        raise UserError(f"{file}: reward {name} takes no {key!r}{nearest(str(key), known)}")
    made: Any = kind(**options)
    if isinstance(made, RewardRecipe):
        raise UserError(f"{file}: {name} is a reward recipe, which trains models; name plain rewards")
    plain: Reward = made
    return plain
