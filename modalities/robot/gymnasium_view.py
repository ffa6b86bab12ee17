"""gymnasium's environments as batches of episodes.

Any registered environment serves whose observations are a box of numbers (or pixels) and whose actions are a box of
numbers with bounds, or one of several choices.  Actions arrive in [-1, 1] and are scaled to the bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import yaml
from numpy.typing import NDArray

from mmalign.errors import UserError
from mmalign.modalities.robot.environments import Moment, Space
from mmalign.modalities.robot.options import RobotOptions
from mmalign.rng import derive_seed
from mmalign.types import Row
from mmalign.worlds import sweep

__all__ = ["GymnasiumEnvironment", "row_seed", "small_picture"]

Bools = NDArray[np.bool_]


def row_seed(row: Row) -> int:
    """The seed an episode begins with: the prompt's number, else one made from the prompt's text."""
    text = str(row.prompt)
    return int(text) % 2**31 if text.isdigit() else derive_seed(0, "gymnasium", text) % 2**31


class GymnasiumEnvironment:
    """One environment per episode, stepped one by one; those made are kept for the next batch."""

    def __init__(self, options: RobotOptions) -> None:
        self.options = options
        self._id, self._arguments = _parts(options.environment.partition(":")[2])
        self._made: list[Any] = []
        self._seeds: list[int] = []
        self._steps = np.zeros(0, dtype=np.int64)
        env = self._env(0)
        spec = getattr(env, "spec", None)
        self.limit = options.max_episode_steps or getattr(spec, "max_episode_steps", None) or 1000
        self._timed = options.time_in_observation and options.observe == "vector"
        self.space = _space(env, options, self._timed)

    def reset(self, rows: Sequence[Row]) -> Moment:
        """Begin one episode per row, seeded by its prompt."""
        n = len(rows)
        self._seeds = [row_seed(row) for row in rows]
        self._steps = np.zeros(n, dtype=np.int64)
        seen = [self._env(k).reset(seed=seed)[0] for k, seed in enumerate(self._seeds)]
        self._last = np.stack([self._view(k, observation) for k, observation in enumerate(seen)])
        self._pictures = [self._picture(k) for k in range(n)] if self.options.keep_pixels else []
        none = np.zeros(n, dtype=bool)
        return self._moment(np.zeros(n), none, none, none)

    def step(self, actions: NDArray[np.float32], alive: Bools) -> Moment:
        """Step the environments that are alive."""
        n = len(alive)
        reward, ended, cut, success = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        for k in np.flatnonzero(alive):
            observation, earned, over, late, info = self._env(int(k)).step(self._action(actions[k]))
            self._steps[k] += 1
            reward[k], ended[k] = float(earned), bool(over)
            cut[k] = not over and (bool(late) or self._steps[k] >= self.limit)
            success[k] = bool(info.get("is_success", info.get("success", False)))
            self._last[k] = self._view(int(k), observation)
            if self._pictures:
                self._pictures[k] = self._picture(int(k))
        return self._moment(reward, ended, cut, success)

    def starts(self) -> list[Mapping[str, Any]]:
        """Environment and seed of each episode."""
        name = self.options.environment.partition(":")[2]
        return [{"environment": name, "seed": seed} for seed in self._seeds]

    def _env(self, k: int) -> Any:
        gymnasium = _gymnasium()
        while len(self._made) <= k:
            needs = self.options.keep_pixels or self.options.observe == "pixels"
            try:
                env = gymnasium.make(
                    self._id,
                    **({"render_mode": "rgb_array"} if needs else {}),
                    **self._arguments,
                    max_episode_steps=self.options.max_episode_steps,
                    disable_env_checker=True,
                )
            except ImportError as error:
                raise UserError(
                    f"model.options: environment: {self._id} is not installed ({error})"
                ) from None
            except (gymnasium.error.Error, TypeError) as error:
                raise UserError(
                    f"model.options: environment: gymnasium has no {self._id!r} here ({error})"
                ) from None
            self._made.append(env)
        return self._made[k]

    def _view(self, k: int, observation: Any) -> NDArray[Any]:
        if self.options.observe == "pixels":
            seen = np.asarray(observation)
            return seen if seen.ndim == 3 else self._picture(k)
        vector = np.asarray(observation, dtype=np.float32).reshape(-1)
        return np.append(vector, np.float32(self._steps[k] / self.limit)) if self._timed else vector

    def _picture(self, k: int) -> NDArray[np.uint8]:
        return small_picture(self._env(k).render())

    def _action(self, action: NDArray[np.float32]) -> Any:
        space = self._made[0].action_space
        if self.space.choices is not None:
            return int(np.rint((float(action[0]) + 1.0) * 0.5 * (self.space.choices - 1))) + int(space.start)
        wide = np.clip(action.astype(np.float64), -1.0, 1.0).reshape(space.shape)
        return (space.low + 0.5 * (wide + 1.0) * (space.high - space.low)).astype(space.dtype)

    def _moment(self, reward: NDArray[np.float64], ended: Bools, cut: Bools, success: Bools) -> Moment:
        pixels = np.stack(self._pictures) if self._pictures else None
        return Moment(self._last.copy(), reward, ended, cut, success, pixels=pixels)


def _parts(name: str) -> tuple[str, dict[str, Any]]:
    """``MODULE:ID?KEY=VALUE&...`` as the id (with its module, which gymnasium imports) and the arguments."""
    ident, _, query = name.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    return ident, {key: yaml.safe_load(value) for key, value in given}


def small_picture(picture: Any) -> NDArray[np.uint8]:
    """A rendered picture at 64 x 64 pixels."""
    from PIL import Image

    image = Image.fromarray(np.asarray(picture, dtype=np.uint8))
    return np.asarray(image.resize((sweep.SIDE, sweep.SIDE), Image.Resampling.BOX), dtype=np.uint8)


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise UserError("modality robot: gymnasium is missing: pip install 'mmalign[robot]'") from error
    return gymnasium


def _space(env: Any, options: RobotOptions, timed: bool) -> Space:
    gymnasium = _gymnasium()
    seen, acts, name = env.observation_space, env.action_space, options.environment
    if isinstance(acts, gymnasium.spaces.Discrete):
        if options.policy != "tokens":
            raise UserError(f"model.options: policy: {name} has {acts.n} choices, which need tokens")
        size, choices = 1, int(acts.n)
    elif (
        isinstance(acts, gymnasium.spaces.Box)
        and np.isfinite(acts.low).all()
        and np.isfinite(acts.high).all()
    ):
        size, choices = int(np.prod(acts.shape)), None
    else:
        raise UserError(
            f"model.options: environment: the actions of {name} are {acts}; expected a bounded box or choices"
        )
    if not isinstance(seen, gymnasium.spaces.Box):
        raise UserError(f"model.options: environment: the observations of {name} are {seen}; expected a box")
    if options.observe == "pixels":
        shape = tuple(seen.shape) if len(seen.shape) == 3 else (sweep.SIDE, sweep.SIDE, 3)
        return Space(shape, size, choices)
    low, high = (np.asarray(bound, dtype=np.float64).reshape(-1) for bound in (seen.low, seen.high))
    known = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
    center = np.where(known, 0.5 * (np.where(known, low, 0.0) + np.where(known, high, 0.0)), 0.0)
    scale = np.where(known, 0.5 * np.where(known, high - low, 2.0), 1.0)
    scale = np.where(scale > 0, scale, 1.0)
    if timed:
        center, scale = np.append(center, 0.0), np.append(scale, 1.0)
    return Space((len(center),), size, choices, center.astype(np.float32), scale.astype(np.float32))
