"""CLIP similarity of a picture and its prompt, alone or beside other prompts, under the world's or a local model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.pictures.encoders import load_dual_encoder
from mmalign.rewards.pictures.paying import paid
from mmalign.rewards.pictures.tensors import prompt_text
from mmalign.types import Rollout, Row, StepReward

__all__ = ["ClipContrast", "ClipScore"]


class ClipScore:
    """``scale * cos(picture, prompt)``, differentiable in the picture.

    *Reference:* Hessel et al. 2021 (CLIPScore, arXiv:2104.08718). *Differs:* no clipping at 0, which would take the
    gradient away, and no factor 2.5.

    Args:
        model: ``drawings`` (the open_clip model that comes with that world), a folder of open_clip or of transformers'
            CLIP, or the name of an open_clip architecture, which needs ``pretrained``.
        pretrained: a local file of weights.
        scale: what a cosine of 1 pays.
        batch_size: pictures per pass of ``__call__``.
    """

    def __init__(
        self, model: str = "drawings", pretrained: str | None = None, scale: float = 1.0, batch_size: int = 64
    ) -> None:
        if model == "drawings":
            from mmalign.worlds.drawings import CLIP

            model = str(CLIP)
        if scale <= 0:
            raise UserError(f"scale: expected a number above 0, found {scale}")
        self.encoder, self.scale, self.batch_size = load_dual_encoder(model, pretrained), scale, batch_size

    def score(self, rows: Sequence[Row], pictures: Tensor) -> Tensor:
        """Scores ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient."""
        return self.scale * self.encoder.cosine([prompt_text(row) for row in rows], pictures)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        return paid("clip", self.score, rollout, self.batch_size)


class ClipContrast(ClipScore):
    """``scale * (cos(picture, own prompt) - mean cos(picture, every prompt of the batch))``, differentiable.

    What every prompt likes alike pays nothing: scored for other prompts, pictures earn 0 in the mean over the pairings.
    The batch is what goes through ``score`` at once (``per_device_train_batch_size`` in stage ``pathwise``), or a whole
    rollout.  mmalign's own, in the spirit of CLIP's training loss.

    Args:
        model: as of :class:`ClipScore`, and so are the others.
        pretrained: a local file of weights.
        scale: what a difference of 1 pays.
        batch_size: pictures per pass of ``__call__``.
    """

    def score(self, rows: Sequence[Row], pictures: Tensor) -> Tensor:
        """Scores ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient.

        Raises:
            UserError: when all prompts are the same: every score would be 0.
        """
        own = self._texts(rows)
        return self._above(own, _mean(own, rows), pictures)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        common = _mean(self._texts(rollout.rows), rollout.rows)

        def score(rows: Sequence[Row], pictures: Tensor) -> Tensor:
            return self._above(self._texts(rows), common, pictures)

        return paid("clip_contrast", score, rollout, self.batch_size)

    def _texts(self, rows: Sequence[Row]) -> Tensor:
        return self.encoder.texts([prompt_text(row) for row in rows])

    def _above(self, own: Tensor, common: Tensor, pictures: Tensor) -> Tensor:
        return self.scale * (self.encoder.images(pictures) * (own - common)).sum(-1)


def _mean(texts: Tensor, rows: Sequence[Row]) -> Tensor:
    """The mean ``[D]`` of the prompts' unit vectors ``[B, D]``."""
    if len({prompt_text(row) for row in rows}) < 2:
        raise UserError(
            "reward clip_contrast: one prompt has no other; raise per_device_train_batch_size or rollout_batch_size"
        )
    return texts.mean(0)
