"""The classifier: a detector that slides over one picture, trained on frames of demonstrations and failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["LabelledFrames", "SuccessModel"]

_WEIGHTS, _RECORD = "model.safetensors", "success.json"


@dataclass(frozen=True)
class LabelledFrames:
    """Frames ``[F, 3, H, W]`` of one row's episodes and whether each shows success ``[F]``."""

    row: Row
    frames: Tensor
    labels: Tensor

    @property
    def rows(self) -> tuple[Row, ...]:
        """The row they came from."""
        return (self.row,)


class SuccessModel(nn.Module):
    """Log-odds that a frame shows success; classes weigh the same however rare success is.

    A few convolutions answer sixteen questions at each of 16 x 16 places and the best answer to each counts,
    wherever it is: what success looks like is learnt once, not anew for every place where it can happen.

    Args:
        seed: of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 4, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(16, 32, 4, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 16, 1),
            )
            self.head = nn.Linear(16, 1)
        self.trunks: dict[str, nn.Module] = {}

    def forward(self, frames: Tensor) -> Tensor:
        """Log-odds ``[F]`` of frames ``[F, 3, 64, 64]``; the mean grey of a picture is taken off first."""
        answers = self.net(4.0 * (frames - 0.8)).flatten(2).amax(2)
        logits: Tensor = self.head(answers).squeeze(-1)
        return logits

    def loss(self, items: Sequence[LabelledFrames]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy, halves of the weight to either class, and the share of frames that is right."""
        frames, labels = torch.cat([i.frames for i in items]), torch.cat([i.labels for i in items]).float()
        logits = self(frames)
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        parts = [each[labels == value].mean() for value in (0.0, 1.0) if bool((labels == value).any())]
        right = ((logits > 0).float() == labels).float().mean()
        return torch.stack(parts).mean(), {"accuracy": float(right)}

    def save(self, folder: Path) -> None:
        """Write the weights."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _RECORD).write_text(json.dumps({"kind": "success"}) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SuccessModel:
        """What :meth:`save` wrote.

        Raises:
            UserError: when the folder holds none.
        """
        from safetensors.torch import load_file

        if not (folder / _RECORD).is_file():
            raise UserError(f"{folder}: holds no success classifier; run the stage reward_model")
        model = cls()
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return model
