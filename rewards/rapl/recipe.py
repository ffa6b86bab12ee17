"""How a recipe's configuration becomes an encoder trained on ranked videos, and the reward made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.rapl.encoder import AlignedEncoder, Comparison, FrameScore, pixel_features
from mmalign.rewards.rapl.quality import longer_stick, video_quality
from mmalign.rewards.rapl.reward import RaplReward, ScoreReward
from mmalign.rewards.rapl.videos import expert_videos, video
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Rollout, Row, StepReward
from mmalign.worlds import sweep

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig, RewardModelConfig

__all__ = ["FrameScoreRecipe", "Rapl", "RaplModel", "ScoreModel"]

EXPERTS = 3
"""Expert videos per task and embodiment."""
FAR = 30
"""Episodes with the long stick in the held-out measurement."""
_WEIGHTS, _EXPERTS, _RECORD = "model.safetensors", "experts.safetensors", "videos.json"


@dataclass(frozen=True)
class _Label:
    """One ranked pair: its row, and what the encoder sees."""

    row: Row
    comparison: Comparison

    @property
    def rows(self) -> tuple[Row, ...]:
        """The row the label came from."""
        return (self.row,)


class RaplModel(nn.Module):
    """An aligned encoder with the expert videos it measures against."""

    kind = "rapl"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = AlignedEncoder(seed)
        self.experts: dict[str, Tensor] = {}
        self.trunks: dict[str, nn.Module] = {}

    def loss(self, batch: Sequence[_Label]) -> tuple[Tensor, dict[str, float]]:
        """The alignment loss of labels."""
        return self.net.loss([item.comparison for item in batch])

    def score(self, frames: Tensor, task: str) -> float:
        """Minus the transport cost of a whole video to the experts of its task."""
        return float(self.net.rewards(frames, self.experts[task]).sum())

    def by_pixels(self, frames: Tensor, task: str) -> float:
        """The same without learning, on pixels."""
        seen = pixel_features(frames)
        return float(self.net.paid(seen, pixel_features(self.experts[task])).sum())

    def save(self, folder: Path) -> None:
        """Write weights and expert videos."""
        _save(self, folder)


class ScoreModel(nn.Module):
    """A plain preference reward on the same frames."""

    kind = "frame_score"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = FrameScore(seed)
        self.experts: dict[str, Tensor] = {}
        self.trunks: dict[str, nn.Module] = {}

    def loss(self, batch: Sequence[_Label]) -> tuple[Tensor, dict[str, float]]:
        """The Bradley-Terry loss of labels."""
        return self.net.loss([item.comparison for item in batch])

    def score(self, frames: Tensor, task: str) -> float:
        """Sum of the frames' scores."""
        return float(self.net.rewards(frames).sum())

    def save(self, folder: Path) -> None:
        """Write weights."""
        _save(self, folder)


class _Ranked:
    """What both recipes share: labels from ranked episodes, and the held-out measurement."""

    made: type[RaplModel] | type[ScoreModel]

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> Any:
        """An encoder drawn from the stage's own stream, or the one that ``model_name_or_path`` names.

        It never starts from the policy.

        Raises:
            UserError: when that folder holds no encoder of frames.
        """
        model = self.made(int(torch.randint(2**31, ())))
        if cfg.model_name_or_path is not None:
            model.net.encoder.read(Path(source))
        return model

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> Any:
        """Read a trained encoder.

        Raises:
            UserError: when the folder holds none of this kind.
        """
        from safetensors.torch import load_file

        file = folder / _RECORD
        kind = json.loads(file.read_text(encoding="utf-8"))["kind"] if file.is_file() else None
        if kind != self.made.kind:
            raise UserError(f"{folder}: holds no {self.made.kind} encoder; run the stage reward_model")
        model = self.made()
        model.net.load_state_dict(load_file(folder / _WEIGHTS))
        model.experts = load_file(folder / _EXPERTS)
        return model

    def rankings(self, rows: Sequence[Row], cfg: RewardModelConfig, *, part: str, seed: int) -> list[_Label]:
        """Pairs of episodes with an expert's video beside each; under ``ranking.shuffle`` training labels are coins."""
        ranking = cfg.ranking
        most = ranking.n_train if part == "train" else ranking.n_heldout
        rng = numpy_generator(seed, "rapl", part)
        anchors: dict[str, Tensor] = {}
        made = []
        for row in rows[:most]:
            chosen, rejected = _episode(row, row.chosen), _episode(row, row.rejected)
            task, body = str(chosen.start["task"]), str(chosen.start["embodiment"])
            if f"{task} {body}" not in anchors:
                own = derive_seed(seed, "experts") % 2**20
                anchors[f"{task} {body}"] = expert_videos(task, body, EXPERTS, own)
            anchor = anchors[f"{task} {body}"][int(rng.integers(EXPERTS))]
            better, worse = video(chosen), video(rejected)
            if part == "train" and ranking.shuffle and rng.random() < 0.5:
                better, worse = worse, better
            made.append(_Label(row, Comparison(anchor, better, worse)))
        return made

    def prepare(self, model: Any, rankings: Sequence[_Label], cfg: RewardModelConfig) -> None:
        """Put the anchors of the training labels into the model, by task."""
        found: dict[str, list[Tensor]] = {}
        for label in rankings:
            videos = found.setdefault(str(label.row.chosen.start["task"]), [])
            if not any(torch.equal(label.comparison.anchor, known) for known in videos):
                videos.append(label.comparison.anchor)
        model.experts = {task: torch.stack(videos) for task, videos in found.items()}

    def settle(self, model: Any, rankings: Sequence[_Label]) -> None:
        """Take the mean training score off every frame's, where frames are scored."""
        if isinstance(model, ScoreModel):
            videos = [v for label in rankings for v in (label.comparison.preferred, label.comparison.other)]
            model.net.centre(torch.stack(videos).flatten(0, 1))

    @torch.no_grad()
    def measure(self, model: Any, rankings: Sequence[_Label]) -> dict[str, Any]:
        """Held-out accuracy, rank correlations with the truth, and what the distractors move."""
        loss, metrics = model.loss(rankings)
        episodes = [e for label in rankings for e in (label.row.chosen, label.row.rejected)]
        far = [e for task in model.experts for e in longer_stick(task, FAR, 0)]
        found = {"loss": float(loss), **metrics, **video_quality(model.score, episodes, far)}
        if isinstance(model, RaplModel):
            pixels = video_quality(model.by_pixels, episodes, far)
            found |= {f"pixels/{name}": value for name, value in pixels.items()}
        return found

    def baseline(self, rankings: Sequence[_Label]) -> dict[str, float]:
        """Nothing: the reward has no unit to set."""
        return {}


class Rapl(_Ranked):
    """The reward recipe ``rapl``: rows of kind ``preference`` hold ranked videos, the world's experts the anchors."""

    name = "rapl"
    made = RaplModel

    def reward(
        self, cfg: RewardConfig, *, model: Any, judge: Any, extractor: Any, baseline: Mapping[str, float]
    ) -> Callable[[Rollout], StepReward]:
        """The transport reward, ``reward.model_weight`` times.

        Raises:
            UserError: when the encoder was not trained.
        """
        return RaplReward(_trained(model, self.name).net, model.experts, weight=cfg.model_weight)


class FrameScoreRecipe(_Ranked):
    """The reward recipe ``frame_score``: Bradley-Terry on the same labels and frames, RAPL's rival."""

    name = "frame_score"
    made = ScoreModel

    def reward(
        self, cfg: RewardConfig, *, model: Any, judge: Any, extractor: Any, baseline: Mapping[str, float]
    ) -> Callable[[Rollout], StepReward]:
        """The mean score of an episode's frames, paid frame by frame, ``reward.model_weight`` times.

        Raises:
            UserError: when the encoder was not trained.
        """
        return ScoreReward(_trained(model, self.name).net, weight=cfg.model_weight)


def _trained(model: Any, name: str) -> Any:
    if model is None:
        raise UserError(
            f"reward.source: {name} needs its encoder; set it to model and run the stage reward_model"
        )
    return model


def _save(model: RaplModel | ScoreModel, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.net.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    save_file({name: value.contiguous() for name, value in model.experts.items()}, folder / _EXPERTS)
    (folder / _RECORD).write_text(json.dumps({"kind": model.kind}) + "\n", encoding="utf-8")


def _episode(row: Row, episode: Any) -> sweep.Episode:
    if not isinstance(episode, sweep.Episode):
        raise UserError(f"row {row.id}: rapl compares episodes, found {type(episode).__name__}")
    return episode
