"""The sweep world as a ``gymnasium.Env``, for code that knows no batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.errors import UserError
from mmalign.worlds.sweep.environment import ACTION_SIZE, MAX_STEPS, OBSERVATION_SIZE, SweepBatch
from mmalign.worlds.sweep.layout import Start

__all__ = ["sweep_env"]


def sweep_env(task: str, embodiment: str, *, max_steps: int = MAX_STEPS, stop_on_success: bool = True) -> Any:
    """The sweep world as a ``gymnasium.Env``; ``reset(seed=...)`` chooses the start, ``render`` gives 64 x 64 pixels.

    ``info`` holds ``success`` and ``potential`` ``[2]``.  One episode of :class:`mmalign.worlds.sweep.SweepBatch`,
    bit for bit.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise UserError("world sweep: gymnasium is missing: pip install 'mmalign[robot]'") from error

    class SweepEnv(gymnasium.Env):  # type: ignore[misc, name-defined]
        metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
        render_mode = "rgb_array"

        def __init__(self) -> None:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
            self._batch: SweepBatch | None = None

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[NDArray[np.float32], dict[str, Any]]:
            super().reset(seed=seed)
            chosen = int(self.np_random.integers(2**31)) if seed is None else seed
            self._batch = SweepBatch(
                [Start(task, embodiment, chosen)], max_steps=max_steps, stop_on_success=stop_on_success
            )
            return self._batch.reset()[0], {}

        def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
            assert self._batch is not None
            made = self._batch.step(np.asarray(action)[None])
            info = {"success": bool(made.success[0]), "potential": made.potential[0]}
            return (
                made.observation[0],
                float(made.reward[0]),
                bool(made.terminated[0]),
                bool(made.truncated[0]),
                info,
            )

        def render(self) -> NDArray[np.uint8]:
            assert self._batch is not None
            return self._batch.frames()[0]

    return SweepEnv()
