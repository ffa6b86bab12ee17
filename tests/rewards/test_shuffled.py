"""The shuffled control pays the same numbers to other answers, the same way again, and refuses what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmalign.errors import UserError
from mmalign.rewards.pictures.plain import Brightness
from mmalign.rewards.pictures.tensors import as_picture
from mmalign.rewards.shuffled import Shuffled
from mmalign.types import Rollout, Row, StepReward
from tests.rewards.pictures_build import pictures, rollout

SHADES = [as_picture(pictures(1, 4)[0] * k / 16) for k in range(1, 17)]


def test_totals_are_permuted_and_independent_of_the_answers() -> None:
    batch = rollout(SHADES)
    own, control = Brightness()(batch).per_step[:, 1], Shuffled("brightness")(batch).per_step[:, 1]
    assert sorted(own.tolist()) == pytest.approx(sorted(control.tolist())) and not torch.equal(own, control)
    assert torch.equal(control, Shuffled("brightness")(batch).per_step[:, 1]), "the same when a run resumes"
    correlations = []
    for seed in range(64):
        shuffled = Shuffled("brightness", seed)(batch).per_step[:, 1]
        correlations.append(float(torch.corrcoef(torch.stack([own, shuffled]))[0, 1]))
    assert abs(sum(correlations) / 64) < 3 * (1 / 15) ** 0.5 / 64**0.5


def test_answers_may_be_scored_for_the_next_prompt() -> None:
    class Letters:
        """The prompt's length times the answer's place."""

        def __call__(self, batch: Rollout) -> StepReward:
            total = torch.zeros_like(batch.logp)
            for k, row in enumerate(batch.rows):
                total[k, -1] = len(row.prompt) * row.completion
            return StepReward(total, {"letters": total.clone()})

    control = Shuffled("brightness", what="prompts")
    control.inner = Letters()  # type: ignore[assignment]
    rows = tuple(Row(f"{k}", "x" * (k // 2 + 1), completion=float(k + 1)) for k in range(6))
    steps = torch.zeros(6, 1)
    batch = Rollout(rows, steps, steps == 0, steps[:, 0] == 0, torch.arange(6) // 2)
    assert control(batch).per_step[:, 0].tolist() == [2.0, 4.0, 9.0, 12.0, 5.0, 6.0]
    with pytest.raises(UserError, match="one prompt has no other"):
        control(replace(batch, group=torch.zeros(6, dtype=torch.long)))


def test_a_differentiated_reward_reads_another_prompt() -> None:
    class Lengths:
        def __call__(self, batch: object) -> None: ...

        def score(self, rows: list, outputs: torch.Tensor) -> torch.Tensor:
            return outputs.mean((1, 2, 3)) * torch.tensor([float(len(row.prompt)) for row in rows])

    control = Shuffled("brightness")
    control.inner = Lengths()  # type: ignore[assignment]
    batch, x = rollout(SHADES[:2]), pictures(2, 4).requires_grad_()
    control.score(batch.rows, x).sum().backward()
    lengths = [len(row.prompt) for row in batch.rows]
    assert float(x.grad[0].sum()) == pytest.approx(lengths[1]) and float(x.grad[1].sum()) == pytest.approx(
        lengths[0]
    )
    with pytest.raises(UserError, match="one row"):
        control.score(batch.rows[:1], x[:1])


def test_what_cannot_be_shuffled_is_refused() -> None:
    with pytest.raises(UserError, match="itself"):
        Shuffled("shuffled")
    with pytest.raises(UserError, match="answers or prompts"):
        Shuffled("brightness", what="captions")
    with pytest.raises(UserError, match="recipe"):
        Shuffled("fgaif")
    with pytest.raises(UserError, match="cannot be differentiated"):
        Shuffled("jpeg_compressibility").score(rollout(SHADES[:2]).rows, pictures(2, 4))
