"""Scores read off a CLIP-type dual encoder: LAION's aesthetic heads, PickScore, HPSv2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.rewards.pictures.encoders import load_dual_encoder
from mmalign.rewards.pictures.paying import paid
from mmalign.rewards.pictures.tensors import prompt_text
from mmalign.rewards.pictures.weights import fill_module, read_weights
from mmalign.types import Rollout, Row, StepReward

__all__ = ["Aesthetic", "HPSv2", "PickScore", "linear_stack"]


def linear_stack(tensors: dict[str, Tensor], file: Path, width: int) -> nn.Module:
    """A head of linear layers from its own weights: ``weight``/``bias``, or ``layers.<k>.weight``/``.bias`` in order.

    The released heads have dropout between the layers and no other function, so this is the whole of them.

    Args:
        tensors: the head's weights.
        file: their file, for errors.
        width: numbers per feature.

    Raises:
        UserError: when no such layers are there, or they do not fit one another or the features.
    """
    found = sorted(
        int(match.group(1)) for key in tensors if (match := re.fullmatch(r"layers\.(\d+)\.weight", key))
    )
    names = [f"layers.{k}." for k in found] if found else [""]
    stack, last = nn.Sequential(), width
    for name in names:
        weight = tensors.get(f"{name}weight")
        if weight is None or f"{name}bias" not in tensors:
            missing = f"{name}{'bias' if weight is not None else 'weight'}"
            raise UserError(
                f"{file}: has no {missing!r}; expected a linear head or layers.<k>.weight and .bias"
            )
        if weight.shape[1] != last:
            raise UserError(f"{file}: {name}weight reads {weight.shape[1]} numbers, but gets {last}")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        stack.append(fill_module(layer, {k: tensors[f"{name}{k}"] for k in ("weight", "bias")}, file))
        last = weight.shape[0]
    if last != 1:
        raise UserError(f"{file}: the head ends in {last} numbers, expected one score")
    return stack.eval()


class Aesthetic:
    """LAION's aesthetic score, about 1 to 10: a linear head, or one of five linear layers, on unit CLIP features.

    *Reference:* github.com/LAION-AI/aesthetic-predictor (linear), christophschuhmann/improved-aesthetic-predictor
    (layers), as used by DDPO (arXiv:2305.13301). *Differs:* none.

    Args:
        clip: folder of the CLIP model whose features the head reads (LAION: ViT-L/14).
        head: file with the head's weights.
        batch_size: pictures per pass.
    """

    def __init__(self, clip: str, head: str, batch_size: int = 32) -> None:
        self.encoder, self.batch_size = load_dual_encoder(clip), batch_size
        file = Path(head)
        tensors = read_weights(file)
        width = self.encoder.texts(["a"]).shape[-1]
        self.head = linear_stack(tensors, file, width)

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """Scores ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient; prompts are not read."""
        self.head.to(outputs.device)
        return self.head(self.encoder.images(outputs)).squeeze(-1)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        return paid("aesthetic", self.score, rollout, self.batch_size)


class PickScore:
    """``exp(logit_scale) * cos(picture, prompt)`` of a CLIP model trained on choices between two pictures.

    *Reference:* Kirstain et al. (2023, arXiv:2305.01569) and their code. *Differs:* none.

    Args:
        clip: folder of the model (transformers).
        batch_size: pictures per pass.
    """

    def __init__(self, clip: str, batch_size: int = 32) -> None:
        self.encoder, self.batch_size = load_dual_encoder(clip), batch_size

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """Scores ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient."""
        return self.encoder.scale * self.encoder.cosine([prompt_text(row) for row in rows], outputs)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        return paid("pickscore", self.score, rollout, self.batch_size)


class HPSv2:
    """Cosine of picture and prompt under open_clip's ViT-H-14, trained on 798k human choices (its tables: times 100).

    *Reference:* Wu et al. (2023, arXiv:2306.09341) and their code. *Differs:* float32 without autocast.

    Args:
        clip: a folder of open_clip, or ``ViT-H-14`` with ``weights``.
        weights: the released file, such as ``HPS_v2.1_compressed.pt``.
        batch_size: pictures per pass.
    """

    def __init__(self, clip: str = "ViT-H-14", weights: str | None = None, batch_size: int = 32) -> None:
        self.encoder, self.batch_size = load_dual_encoder(clip, weights), batch_size

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """Cosines ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient."""
        return self.encoder.cosine([prompt_text(row) for row in rows], outputs)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        return paid("hpsv2", self.score, rollout, self.batch_size)
