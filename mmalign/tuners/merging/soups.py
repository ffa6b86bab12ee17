"""Model soups: the mean of fine-tuned models, of the best of them, or with learned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmalign.tuners.merging.states import State, check_alike, combined

__all__ = ["greedy_soup", "learned_soup", "uniform_soup"]


def uniform_soup(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of all models; of one model, itself bit for bit.

    Running statistics of BatchNorm are averaged like the rest: run ``torch.optim.swa_utils.update_bn`` afterwards.

    Reference: Wortsman et al. 2022, arXiv 2203.05482.
    """
    if len(states) == 1:
        return {name: tensor.clone() for name, tensor in states[0].items()}
    return combined(states, lambda name, values: torch.stack(values).mean(0))


def greedy_soup(
    states: Sequence[State], score: Callable[[State], float]
) -> tuple[dict[str, Tensor], list[int], float]:
    """Add models from the best on, each kept only where the soup's score strictly rises.

    Args:
        states: candidates.
        score: on rows that nothing is reported on (validation); higher is better.

    Returns:
        The soup, the places of its ingredients in the order they went in, and its score, which is never below the
        best single one.

    Reference: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
    """
    check_alike(states)
    scores = [score(state) for state in states]
    order = sorted(range(len(states)), key=lambda k: (-scores[k], k))
    chosen, best = [order[0]], scores[order[0]]
    soup = uniform_soup([states[order[0]]])
    for candidate in order[1:]:
        trial = uniform_soup([states[k] for k in (*chosen, candidate)])
        if (reached := score(trial)) > best:
            soup, best = trial, reached
            chosen.append(candidate)
    return soup, chosen, best


def learned_soup(
    states: Sequence[State],
    loss: Callable[[State, Tensor], Tensor],
    *,
    steps: int,
    learning_rate: float = 0.05,
    per_tensor: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Learn the weights of the mean, per tensor or for all tensors together, with a temperature of the logits.

    Equation: ``theta_l = sum_k softmax(a_l)_k theta_{k,l}``; the loss reads ``beta`` times the logits.

    Args:
        states: ingredients.
        loss: of a mixed state (differentiable) and the temperature ``beta``, on validation rows; called once a step.
        steps: of AdamW without weight decay.
        learning_rate: of AdamW.
        per_tensor: one set of weights per tensor; false has one set in all.

    Returns:
        The soup and its weights per tensor, each ``[K]``.

    Reference: Wortsman et al. 2022, arXiv 2203.05482, appendix I.
    """
    check_alike(states)
    names = [name for name, tensor in states[0].items() if tensor.is_floating_point()]
    rows = {name: number if per_tensor else 0 for number, name in enumerate(names)}
    logits = torch.zeros(len(names) if per_tensor else 1, len(states), requires_grad=True)
    beta = torch.ones((), requires_grad=True)
    optimizer = torch.optim.AdamW([logits, beta], lr=learning_rate, weight_decay=0.0)

    def mixed(weights: Tensor) -> dict[str, Tensor]:
        return combined(
            states,
            lambda name, values: torch.tensordot(
                weights[rows[name]].to(values[0].dtype), torch.stack(values), 1
            ),
        )

    for _ in range(steps):
        optimizer.zero_grad()
        loss(mixed(logits.softmax(1)), beta).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    final = logits.detach().softmax(1)
    return mixed(final), {name: final[rows[name]] for name in names}
