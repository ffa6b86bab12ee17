"""D3PO through the iterative loop's own loss: true step log-probabilities, a frozen reference, no surrogate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmalign.config.iterate import IterateConfig
from mmalign.engine.iterate.collect import sequence_logps
from mmalign.engine.iterate.losses import update_loss
from mmalign.engine.iterate.select import Item
from mmalign.engine.iterate.snapshot import Snapshot, SnapshotReference
from mmalign.errors import UserError
from mmalign.objectives.d3po import d3po_loss
from mmalign.objectives.preference import PairSettings
from mmalign.rng import generator
from mmalign.types import LogP
from tests.engine.gaussian_modality import DIMS, GaussianAdapter, Means, Nearness, gaussian_rows

CONFIG: dict[str, Any] = {"select": "best_worst", "update": "d3po", "d3po_beta": 2.0}


def items(adapter: GaussianAdapter, model: torch.nn.Module, seed: int) -> list[Item]:
    """Best against worst of four, by the reward."""
    rollout = adapter.sample(model, gaussian_rows(16), 4, generator(seed, "draw"))
    totals = Nearness()(rollout).per_step.sum(1).view(-1, 4)
    best, worst = totals.argmax(1).tolist(), totals.argmin(1).tolist()
    return [
        Item(rollout.rows[4 * k + b], rollout.rows[4 * k + w])
        for k, (b, w) in enumerate(zip(best, worst, strict=True))
    ]


def loss_of(adapter: Any, model: torch.nn.Module, start: Snapshot, **changes: Any) -> Any:
    reference = SnapshotReference(adapter, model, start)
    cfg = IterateConfig(**{**CONFIG, **changes})
    return update_loss(adapter, model, reference, reference, cfg, PairSettings())


def test_it_is_the_objective_on_both_trajectories_steps() -> None:
    adapter, model = GaussianAdapter(), Means()
    start, drawn = Snapshot(model), items(adapter, model, 0)
    with torch.no_grad():
        model.mean += 0.05 * torch.randn(model.mean.shape, generator=generator(0, "move"))
    found = loss_of(adapter, model, start)(drawn, generator(0, "loss"))
    sides = []
    for rows in ([item.answer for item in drawn], [item.other for item in drawn]):
        batch = adapter.collate(rows)  # type: ignore[arg-type]
        sides += [adapter.logp(model, batch).values, adapter.logp(Means(), batch).values, batch.mask]
    assert float(found.value.detach()) == pytest.approx(
        float(d3po_loss(*sides, 2.0, 0.1)[0].detach()), abs=1e-7
    )


def test_rounds_of_it_raise_the_reward() -> None:
    adapter, model = GaussianAdapter(), Means()
    reward = Nearness()

    def mean_reward() -> float:
        return float(
            reward(adapter.sample(model, gaussian_rows(256), 1, generator(9, "see"))).per_step.sum(1).mean()
        )

    before, start = mean_reward(), Snapshot(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loss_fn = loss_of(adapter, model, start, d3po_clip=None)
    for step in range(40):
        optimizer.zero_grad()
        loss_fn(items(adapter, model, step), generator(step, "loss")).value.backward()
        optimizer.step()
    assert mean_reward() > before + 0.3


def test_a_surrogate_is_refused() -> None:
    class Noisy(GaussianAdapter):
        def logp(self, *args: Any, **options: Any) -> LogP:
            return replace(super().logp(*args, **options), surrogate=True)

    adapter, model = Noisy(), Means()
    drawn = items(GaussianAdapter(), model, 0)
    with pytest.raises(UserError, match=r"d3po learns from the log-probability of every step.*'gaussian'"):
        loss_of(adapter, model, Snapshot(model))(drawn, generator(0, "loss"))
    with pytest.raises(UserError, match="no log-probability"):
        sequence_logps(adapter, model, [item.answer for item in drawn], 8)
    with pytest.raises(ValueError, match="d3po_clip"):
        IterateConfig(**{**CONFIG, "d3po_clip": 0.0})


def test_log_probabilities_of_answers_are_in_nats_of_whole_steps() -> None:
    rows = [item.answer for item in items(GaussianAdapter(), Means(), 1)]
    found = []
    for reduction in ("mean", "sum"):
        adapter = GaussianAdapter()
        adapter.configure({"reduction": reduction})
        found.append(sequence_logps(adapter, Means(), rows, 8))
    assert torch.allclose(found[0], found[1], atol=1e-4) and DIMS > 1
