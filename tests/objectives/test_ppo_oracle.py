"""PPO against plain loops over samples and steps: loss and gradient, in float64, over many random draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmalign.objectives.advantage import gae
from mmalign.objectives.masked import masked_whiten
from mmalign.objectives.policy import ppo_policy_loss, ppo_value_loss

TOLERANCE = 1e-12


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, steps = 5, 8
    lengths = torch.randint(1, steps + 1, (batch, 1), generator=generator)
    noise = torch.randn(6, batch, steps, generator=generator, dtype=torch.float64)
    old = -noise[0].abs() - 0.1
    return {
        "mask": torch.arange(steps) < lengths,
        "logp_old": old,
        "logp": (old + 0.35 * noise[1]).requires_grad_(),
        "rewards": noise[2],
        "values_old": noise[3],
        "values": (noise[3] + 0.3 * noise[4]).requires_grad_(),
    }


def loop_policy_loss(
    d: dict[str, Tensor], advantages: list[list[float]], low: float, high: float, dual: float | None
) -> Tensor:
    """The clipped loss as one would write it on paper: a Python sum over real steps."""
    terms = []
    for b, row in enumerate(advantages):
        for t, a in enumerate(row):
            ratio = torch.exp(d["logp"][b, t] - d["logp_old"][b, t])
            limit = min(max(ratio.item(), 1 - low), 1 + high)
            clipped = ratio if limit == ratio.item() else torch.tensor(limit, dtype=torch.float64)
            first, second = ratio * a, clipped * a
            value = first if first.item() <= second.item() else second
            if dual is not None and a < 0 and value.item() < dual * a:
                value = torch.tensor(dual * a, dtype=torch.float64)
            terms.append(-value)
    return sum(terms, torch.zeros((), dtype=torch.float64)) / len(terms)


def loop_value_loss(d: dict[str, Tensor], returns: list[list[float]], clip: float) -> Tensor:
    terms = []
    for b, row in enumerate(returns):
        for t, target in enumerate(row):
            v, old = d["values"][b, t], d["values_old"][b, t].item()
            gap = v.item() - old
            limited = (
                v
                if abs(gap) <= clip
                else torch.tensor(old + (clip if gap > 0 else -clip), dtype=torch.float64)
            )
            first, second = (v - target) ** 2, (limited - target) ** 2
            terms.append(0.5 * (first if first.item() >= second.item() else second))
    return sum(terms, torch.zeros((), dtype=torch.float64)) / len(terms)


def loop_gae(d: dict[str, Tensor], gamma: float, lam: float) -> tuple[list[list[float]], list[list[float]]]:
    advantages, returns = [], []
    for b in range(d["mask"].shape[0]):
        length = int(d["mask"][b].sum())
        row, running = [0.0] * length, 0.0
        for t in range(length - 1, -1, -1):
            following = d["values_old"][b, t + 1].item() if t + 1 < length else 0.0
            delta = d["rewards"][b, t].item() + gamma * following - d["values_old"][b, t].item()
            running = delta + gamma * lam * running
            row[t] = running
        advantages.append(row)
        returns.append([a + d["values_old"][b, t].item() for t, a in enumerate(row)])
    return advantages, returns


def loop_whiten(rows: list[list[float]]) -> list[list[float]]:
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    std = (sum((x - mean) ** 2 for x in flat) / len(flat)) ** 0.5
    return [[(x - mean) / (std + 1e-8) for x in row] for row in rows]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, None), (0.2, 0.28, None), (0.1, 0.1, 1.3)])
def test_ppo_with_gae_and_whitening(seed: int, low: float, high: float, dual: float | None) -> None:
    d = draw(seed)
    advantages, returns = gae(d["rewards"], d["values_old"], d["mask"], 0.98, 0.9)
    loss, _ = ppo_policy_loss(
        d["logp"], d["logp_old"], masked_whiten(advantages, d["mask"]), d["mask"], low, high, dual
    )
    value_loss, _ = ppo_value_loss(d["values"], d["values_old"], returns, d["mask"], 0.2)
    loop_advantages, loop_returns = loop_gae(d, 0.98, 0.9)
    expected = loop_policy_loss(d, loop_whiten(loop_advantages), low, high, dual)
    expected_value = loop_value_loss(d, loop_returns, 0.2)
    assert abs(loss.item() - expected.item()) < TOLERANCE
    assert abs(value_loss.item() - expected_value.item()) < TOLERANCE
    for ours, theirs, leaf in ((loss, expected, "logp"), (value_loss, expected_value, "values")):
        gradient = torch.autograd.grad(ours, d[leaf])[0]
        assert (gradient - torch.autograd.grad(theirs, d[leaf])[0]).abs().max().item() < TOLERANCE
        assert gradient.abs().max().item() > 0


def test_the_draws_reach_every_branch() -> None:
    """The comparison above is worth something only if clipping happens on both sides."""
    low = high = kept = 0.0
    for seed in range(8):
        d = draw(seed)
        advantages = masked_whiten(gae(d["rewards"], d["values_old"], d["mask"])[0], d["mask"])
        _, metrics = ppo_policy_loss(d["logp"], d["logp_old"], advantages, d["mask"])
        low, high = low + metrics["clip_ratio/low"].item(), high + metrics["clip_ratio/high"].item()
        kept += 1 - metrics["clip_ratio"].item()
    assert min(low, high, kept) > 0.3
