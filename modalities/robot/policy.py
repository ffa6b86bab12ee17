"""A policy: a trunk that reads observations and a head that draws actions, with what it takes to make it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmalign.errors import UserError
from mmalign.modalities.robot.diffusion_head import DiffusionHead
from mmalign.modalities.robot.environments import Space
from mmalign.modalities.robot.heads import GaussianHead, TokenHead
from mmalign.modalities.robot.options import RobotOptions
from mmalign.modalities.robot.trunks import Trunk

__all__ = ["Make", "RobotPolicy", "fresh_policy", "load_policy", "save_policy"]


@dataclass(frozen=True)
class Make:
    """What a policy is made of; saved beside its weights."""

    policy: str
    observation: tuple[int, ...]
    actions: int
    squash: str
    action_std: float
    learn_std: bool
    bins: int
    chunk: int
    denoise_steps: int
    min_std: float
    width: int
    layers: int


class RobotPolicy(nn.Module):
    """Trunk and head; the last layer starts small, so that first actions are near the middle of their range."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make
        self.trunk = Trunk(make.observation, make.width, make.layers)
        self.head = _head(make)

    @property
    def chunk(self) -> int:
        """Actions per decision."""
        return self.make.chunk if self.make.policy == "diffusion" else 1


def fresh_policy(space: Space, options: RobotOptions, seed: int) -> RobotPolicy:
    """A policy for ``space`` with weights drawn from ``seed``."""
    names = (
        "policy",
        "squash",
        "action_std",
        "learn_std",
        "chunk",
        "denoise_steps",
        "min_std",
        "width",
        "layers",
    )
    make = Make(
        observation=space.observation,
        actions=space.actions,
        bins=space.choices or options.bins,
        **{name: getattr(options, name) for name in names},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobotPolicy(make)
    with torch.no_grad():
        last = [module for module in model.head.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(0.1)
        last.bias.zero_()
        if space.center is not None and space.scale is not None:
            model.trunk.center.copy_(torch.from_numpy(space.center))
            model.trunk.scale.copy_(torch.from_numpy(space.scale))
    return model


def save_policy(model: nn.Module, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json``."""
    assert isinstance(model, RobotPolicy)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    text = json.dumps({"kind": "robot", **asdict(model.make)}, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def load_policy(folder: Path, space: Space) -> RobotPolicy:
    """Read what :func:`save_policy` wrote.

    Raises:
        UserError: when the folder holds none, or one for other observations or actions.
    """
    record = _record(folder)
    make = Make(**{**record, "observation": tuple(record["observation"])})
    if make.observation != space.observation or make.actions != space.actions:
        raise UserError(
            f"{folder}: the policy sees {make.observation} and gives {make.actions} numbers, the environment shows "
            f"{space.observation} and takes {space.actions} (model.options: environment, observe)"
        )
    model = RobotPolicy(make)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def _record(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if record.pop("kind", None) != "robot" or not (folder / "model.safetensors").is_file():
        raise UserError(
            f'{folder}: expected a folder with a saved robot policy, or "robot:SEED" for a fresh one'
        )
    return dict(record)


def _head(make: Make) -> GaussianHead | TokenHead | DiffusionHead:
    if make.policy == "gaussian":
        return GaussianHead(
            make.width, make.actions, std=make.action_std, learn_std=make.learn_std, squash=make.squash
        )
    if make.policy == "tokens":
        return TokenHead(make.width, make.actions, bins=make.bins)
    return DiffusionHead(
        make.width,
        make.actions,
        chunk=make.chunk,
        steps=make.denoise_steps,
        min_std=make.min_std,
        width=make.width,
    )
