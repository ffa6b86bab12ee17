"""The switch from recorded to collected data on a chain: CQL unlearns, Cal-QL does not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmalign.objectives.value_based import conservative_penalty, monte_carlo_returns, td_loss, td_target

LENGTH, GAMMA, SMALL = 6, 0.95, 0.3
FORWARD, STAY, QUIT = range(3)
BEST = GAMMA ** (LENGTH - 1)
Step = tuple[int, int, float, int, bool]


def play(pick: Callable[[int], int]) -> list[Step]:
    """Walk the chain; its end pays 1, quitting pays 0.3 at once."""
    place, steps, done = 0, [], False
    while not done and len(steps) < 40:
        action = pick(place)
        ahead = min(place + (action == FORWARD), LENGTH - 1)
        done = action == QUIT or (action == FORWARD and place == LENGTH - 1)
        paid = SMALL if action == QUIT else float(done)
        steps.append((place, action, paid, ahead, done))
        place = ahead
    return steps


def columns(walks: list[list[Step]]) -> list[Tensor]:
    place, action, reward, ahead, done = (
        torch.tensor(list(column)) for column in zip(*[step for walk in walks for step in walk], strict=True)
    )
    ends = torch.tensor([k == len(walk) - 1 for walk in walks for k in range(len(walk))])
    reward = reward.double()
    return [place, action, reward, ahead, done, monte_carlo_returns(reward, done, ends, GAMMA)]


def update(
    table: Tensor, optimizer: torch.optim.Optimizer, batch: list[Tensor], weight: float, cal: bool
) -> None:
    place, action, reward, ahead, done, returns = batch
    q = table[place, action]
    target = td_target(reward, table[ahead].detach().max(1).values, done, GAMMA)
    none = q.new_zeros(len(q), 0)
    every = table[place]
    penalty = conservative_penalty(
        q, none, every, torch.zeros_like(every), 0, returns if cal else None, temperature=0.1
    )
    loss = td_loss(q[None], target) + weight * penalty.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def learn(cal: bool, seed: int) -> tuple[Tensor, list[float]]:
    """The table after recorded data, and the greedy return after each of 60 collected walks (first: at the switch)."""
    rng = torch.Generator().manual_seed(seed)
    chance = lambda: float(torch.rand((), generator=rng))  # noqa: E731
    recorded = columns([play(lambda _: FORWARD if chance() < 0.6 else STAY) for _ in range(30)])
    table = torch.zeros(LENGTH, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([table], lr=0.05)
    draw = lambda pool, n: torch.randint(len(pool[0]), (n,), generator=rng)  # noqa: E731
    for _ in range(300):
        chosen = draw(recorded, 64)
        update(table, optimizer, [c[chosen] for c in recorded], 0.5, cal)
    at_switch = table.detach().clone()

    def greedy(place: int) -> int:
        return int(table[place].argmax())

    def value() -> float:
        return sum(step[2] * GAMMA**k for k, step in enumerate(play(greedy)))

    curve, walks = [value()], []
    optimizer.param_groups[0]["lr"] = 0.4
    for _ in range(60):
        walks.append(play(lambda s: greedy(s) if chance() < 0.5 else int(3 * chance())))
        own = columns(walks)
        for _ in range(8):
            old, new = draw(recorded, 4), draw(own, 60)
            update(
                table,
                optimizer,
                [torch.cat([r[old], o[new]]) for r, o in zip(recorded, own, strict=True)],
                0.02,
                cal,
            )
        curve.append(value())
    return at_switch, curve


def test_cql_dips_at_the_switch_and_cal_ql_does_not() -> None:
    """Over four seeds: CQL knows less than what quitting pays, and unlearns in most runs; Cal-QL in none."""
    dips = 0
    for seed in range(4):
        table, curve = learn(False, seed)
        assert float(table[0, FORWARD]) < SMALL and curve[0] == BEST
        dips += min(curve) < 0.5 * BEST
        table, curve = learn(True, seed)
        assert float(table[0, FORWARD]) > 2 * SMALL  # at least the behaviour's return
        assert min(curve) == BEST
    assert dips >= 3
