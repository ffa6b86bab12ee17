"""How a recipe's configuration becomes a reward with a latent user, and the reward of one user made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.rapl.reward import episodes_of
from mmalign.rewards.vpl.model import UserReward, UserSet, segment, stacked
from mmalign.rewards.vpl.quality import user_quality
from mmalign.rng import numpy_generator
from mmalign.types import Rollout, Row, StepReward
from mmalign.worlds.sweep.users import USERS, contested, utility

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig, RewardModelConfig

__all__ = ["VPL", "OneForAll", "VPLReward"]

COMPARISONS = 8
"""Comparisons in a user's set."""
SETS = 2
"""Sets per compared pair of episodes and user type: a pair is asked of several people."""


class VPLReward:
    """``Rollout -> StepReward``: ``r(s, a, z)`` at every step, divided by its spread over the rollout's steps.

    Args:
        model: the trained reward.
        z: ``[Z]`` the user.
        weight: of the reward.
    """

    def __init__(self, model: UserReward, z: Tensor, weight: float = 1.0) -> None:
        self.model, self.z, self.weight = model, z, weight

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> StepReward:
        """Pay every step."""
        paid = torch.zeros(rollout.mask.shape)
        for b, episode in enumerate(episodes_of(rollout.rows)):
            paid[b, : len(episode)] = self.model.rewards(stacked(episode), self.z)
        spread = paid[rollout.mask].std().clamp(min=1e-6)
        centred = torch.where(rollout.mask, paid - paid[rollout.mask].mean(), 0.0) / spread
        return StepReward(self.weight * centred, {"vpl": self.weight * centred})


class VPL:
    """The reward recipe ``vpl``: ``preference`` rows hold pairs of episodes, simulated users say which they prefer.

    Args:
        user: whose reward to follow once trained: 0 (left) or 1 (right).
    """

    name = "vpl"
    latent = 4

    def __init__(self, user: int = 0) -> None:
        if not 0 <= user < len(USERS):
            raise UserError(f"reward.options.user: expected 0 to {len(USERS) - 1}, got {user}")
        self.user = user

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> UserReward:
        """A fresh reward drawn from the stage's own stream."""
        return UserReward(segment(probe.chosen).shape[1], self.latent, seed=int(torch.randint(2**31, ())))

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> UserReward:
        """Read a trained reward and the comparisons of the people it was made for.

        Raises:
            UserError: when the folder holds none.
        """
        return UserReward.read(folder)

    def rankings(self, rows: Sequence[Row], cfg: RewardModelConfig, *, part: str, seed: int) -> list[UserSet]:
        """Sets of comparisons, each of one user; the two types are equally many.

        Under ``ranking.shuffle`` every set of ``train`` mixes users at random, so that no latent explains it.
        """
        most = cfg.ranking.n_train if part == "train" else cfg.ranking.n_heldout
        pairs = [(row, row.chosen, row.rejected) for row in rows[:most]]
        rng = numpy_generator(seed, "vpl", part)
        made = []
        for k in range(SETS * len(pairs)):
            user = k % len(USERS)
            index = rng.choice(len(pairs), COMPARISONS, replace=len(pairs) < COMPARISONS)
            asked = [pairs[int(i)] for i in index]
            coins = rng.integers(len(USERS), size=COMPARISONS)
            mixed = part == "train" and cfg.ranking.shuffle
            made.append(_asked(asked, [int(coin) if mixed else user for coin in coins], user))
        return made

    def prepare(self, model: UserReward, rankings: Sequence[UserSet], cfg: RewardModelConfig) -> None:
        """Keep one set per user type: the few labels from which the user is inferred when a policy is trained."""
        for item in rankings:
            model.contexts.setdefault(item.user, (item.better, item.worse))

    def settle(self, model: UserReward, rankings: Sequence[UserSet]) -> None:
        """Nothing to do after training."""

    @torch.no_grad()
    def measure(self, model: UserReward, rankings: Sequence[UserSet]) -> dict[str, Any]:
        """Accuracy for unseen people on pairs that users agree and disagree about, and how z tells them apart."""
        return user_quality(model, rankings)

    def baseline(self, rankings: Sequence[UserSet]) -> dict[str, float]:
        """Nothing: the reward has no unit to set."""
        return {}

    def reward(
        self, cfg: RewardConfig, *, model: Any, judge: Any, extractor: Any, baseline: Mapping[str, float]
    ) -> Callable[[Rollout], StepReward]:
        """The reward of user ``options.user``.

        Raises:
            UserError: when it was not trained.
        """
        if model is None:
            raise UserError(
                "reward.source: vpl needs its model; set it to model and run the stage reward_model"
            )
        better, worse = model.contexts[self.user]
        mask = torch.ones(1, len(better), dtype=torch.bool)
        with torch.no_grad():
            z = model.posterior(better[None], worse[None], mask)[0][0]
        return VPLReward(model, z, cfg.model_weight)


class OneForAll(VPL):
    """The recipe ``vpl_plain``: the same network and labels without a latent user, plain Bradley-Terry."""

    name = "vpl_plain"
    latent = 0


def _asked(asked: Sequence[tuple[Row, Any, Any]], users: Sequence[int], user: int) -> UserSet:
    better, worse, fought = [], [], []
    for (_, first, second), who in zip(asked, users, strict=True):
        ahead = utility(who, first) >= utility(who, second)
        better.append(segment(first if ahead else second))
        worse.append(segment(second if ahead else first))
        fought.append(contested(first, second))
    return UserSet(asked[0][0], user, torch.stack(better), torch.stack(worse), torch.tensor(fought))
