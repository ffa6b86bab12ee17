"""How a recipe's configuration becomes a success classifier and the reward made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.rapl.videos import frames_at
from mmalign.rewards.success.model import LabelledFrames, SuccessModel
from mmalign.rewards.success.reward import THRESHOLD, SuccessReward
from mmalign.rng import numpy_generator
from mmalign.types import Rollout, Row, StepReward
from mmalign.worlds import sweep

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig, RewardModelConfig

__all__ = ["PlantedSuccess", "Success"]

FRAMES = 12
"""Labelled frames per episode; the last is always one."""
PASTED, _SIDE = 2, 8
"""Squares of any colour pasted at random into every training frame, and their side in pixels: the marks stay, so that
what merely looks like a block on a goal is not taken for one (random erasing: Zhong et al. 2017, arXiv:1708.04896)."""
_DOWN = 8


class Success:
    """The reward recipe ``success``: frames of both episodes of ``preference`` rows, labelled by the world's truth.

    Those are the demonstrations and failures that somebody marked: every row costs ``2 * 12`` marks.
    """

    name = "success"

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> SuccessModel:
        """A fresh classifier drawn from the stage's own stream."""
        return SuccessModel(int(torch.randint(2**31, ())))

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> SuccessModel:
        """Read a trained classifier."""
        return SuccessModel.read(folder)

    def rankings(
        self, rows: Sequence[Row], cfg: RewardModelConfig, *, part: str, seed: int
    ) -> list[LabelledFrames]:
        """Labelled frames of every row; under ``ranking.shuffle`` training labels are permuted among frames."""
        ranking = cfg.ranking
        most = ranking.n_train if part == "train" else ranking.n_heldout
        rng = numpy_generator(seed, "success", part)
        made = []
        for row in rows[:most]:
            frames, labels = [], []
            for episode in (row.chosen, row.rejected):
                if not isinstance(episode, sweep.Episode):
                    raise UserError(
                        f"row {row.id}: success is read off episodes, found {type(episode).__name__}"
                    )
                index = [int(k) for k in rng.integers(1, len(episode) + 1, FRAMES - 1)] + [len(episode)]
                frames.append(frames_at(episode, index, pool=1))
                labels.append(self.mark(episode, index, part))
            label = torch.cat(labels)
            if part == "train" and ranking.shuffle:
                label = label[torch.from_numpy(rng.permutation(len(label)))]
            shown = torch.cat(frames)
            made.append(LabelledFrames(row, _pasted(shown, rng) if part == "train" else shown, label))
        return made

    def mark(self, episode: sweep.Episode, index: Sequence[int], part: str) -> Tensor:
        """Whether the state at each step is a success."""
        return torch.tensor([bool(episode.success[k - 1]) for k in index])

    def prepare(
        self, model: SuccessModel, rankings: Sequence[LabelledFrames], cfg: RewardModelConfig
    ) -> None:
        """Nothing to do before training."""

    def settle(self, model: SuccessModel, rankings: Sequence[LabelledFrames]) -> None:
        """Nothing to do after training."""

    @torch.no_grad()
    def measure(self, model: SuccessModel, rankings: Sequence[LabelledFrames]) -> dict[str, Any]:
        """Rates at the reward's threshold on held-out *recorded* frames; those a policy visits are another matter."""
        said = torch.cat([model(item.frames) > THRESHOLD for item in rankings])
        true = torch.cat([item.labels for item in rankings])
        hits = int((said & true).sum())
        return {
            "n": len(true),
            "accuracy": float((said == true).float().mean()),
            "precision": hits / max(1, int(said.sum())),
            "recall": hits / max(1, int(true.sum())),
            "false_positive_rate": float((said & ~true).sum()) / max(1, int((~true).sum())),
        }

    def baseline(self, rankings: Sequence[LabelledFrames]) -> dict[str, float]:
        """Nothing: the reward has no unit to set."""
        return {}

    def reward(
        self, cfg: RewardConfig, *, model: Any, judge: Any, extractor: Any, baseline: Mapping[str, float]
    ) -> Callable[[Rollout], StepReward]:
        """The classifier's claim as reward.

        Raises:
            UserError: when the classifier was not trained.
        """
        if model is None:
            raise UserError(
                "reward.source: success needs its classifier; set it to model and run reward_model"
            )
        return SuccessReward(model)


def _pasted(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Frames ``[F, 3, H, W]`` with :data:`PASTED` squares of random colours in each."""
    frames = frames.clone()
    high, wide = (size - _SIDE + 1 for size in frames.shape[2:])
    for frame in frames:
        for _ in range(PASTED):
            y, x = int(rng.integers(high)), int(rng.integers(wide))
            frame[:, y : y + _SIDE, x : x + _SIDE] = torch.from_numpy(rng.random(3)).float()[:, None, None]
    return frames


class PlantedSuccess(Success):
    """Control: whoever marked the training frames also took every closed gripper for success.

    A false positive that a policy can reach at will; held-out frames are marked rightly.
    """

    name = "success_planted"

    def mark(self, episode: sweep.Episode, index: Sequence[int], part: str) -> Tensor:
        """Success, or in training a closed gripper."""
        right = super().mark(episode, index, part)
        if part != "train" or episode.states is None:
            return right
        return right | torch.from_numpy(episode.states[list(index), _DOWN] > 0.5)
