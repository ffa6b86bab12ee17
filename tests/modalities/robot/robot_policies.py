"""Small policies of every kind, and gymnasium environments whose best policy is known."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from mmalign.modalities.robot import RobotAdapter, RobotOptions, RobotPolicy

KINDS = {
    "gaussian": {},
    "tanh": {"squash": "tanh"},
    "tokens": {"policy": "tokens", "bins": 5},
    "diffusion": {"policy": "diffusion", "chunk": 3, "denoise_steps": 4},
    "pixels": {"observe": "pixels"},
}


class Identity(gymnasium.Env):  # type: ignore[misc]
    """The reward is minus the squared distance of the action to the observation; 8 steps, cut by the limit."""

    def __init__(self, choices: int = 0) -> None:
        self.choices = choices
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = (
            gymnasium.spaces.Discrete(choices) if choices else gymnasium.spaces.Box(-2.0, 2.0, (1,))
        )
        self._seen = np.zeros(1, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A fresh number to repeat."""
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Compare, and show the next number."""
        given = float(action) * 2 / (self.choices - 1) - 1 if self.choices else float(action[0])
        reward = -((given - float(self._seen[0])) ** 2)
        return self._next(), reward, False, False, {"success": reward > -0.01}

    def _next(self) -> np.ndarray:
        low, high = self.observation_space.low, self.observation_space.high
        if self.choices:
            self._seen = np.float32([self.np_random.integers(self.choices) * 2 / (self.choices - 1) - 1])
        else:
            self._seen = self.np_random.uniform(low, high).astype(np.float32)
        return self._seen


for _name, _options in {"Identity-v0": {}, "IdentityChoice-v0": {"choices": 3}}.items():
    if _name not in gymnasium.registry:
        gymnasium.register(_name, entry_point=Identity, max_episode_steps=8, kwargs=_options)


def made(seed: int = 0, **options: Any) -> tuple[RobotAdapter, RobotPolicy]:
    """An adapter and a fresh small policy whose actions are large enough to matter."""
    adapter = RobotAdapter(RobotOptions(**{"width": 16, "layers": 1, **options}))
    model = adapter.load(f"robot:{seed}")
    assert isinstance(model, RobotPolicy)
    with torch.no_grad():
        last = [module for module in model.head.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight.mul_(5.0)
    return adapter, model
