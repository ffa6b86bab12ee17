"""What ranks candidates: a reward, or a judge that compares two answers (the policy itself among them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.masked import masked_sum

if TYPE_CHECKING:
    from mmalign.feedback.pairwise import OrderSwapped
    from mmalign.protocols import Likelihood
    from mmalign.types import Rollout, Row, StepReward

__all__ = ["JudgeLabels", "Labels", "PolicyComparer", "RewardLabels"]


class Labels(Protocol):
    """Ranks answers."""

    def scores(self, rollouts: Sequence[Rollout], n: int) -> Tensor:
        """``[P, n]``: one number per answer, comparable within a prompt."""
        ...

    def preference(self, ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> Tensor:
        """``[P * n]``: probability that the answer of ``ours`` beats that of ``theirs`` at the same place."""
        ...


class RewardLabels:
    """Scores are total rewards; a preference is their Bradley-Terry sigmoid, which is transitive by construction.

    Args:
        reward: ``Rollout -> StepReward``.
    """

    def __init__(self, reward: Callable[[Rollout], StepReward]) -> None:
        self._reward = reward

    def totals(self, rollout: Rollout) -> Tensor:
        """Total reward of each answer, ``[B]``.

        Raises:
            UserError: when a reward is not finite, or no answer has a step that it could stand on.
        """
        if not rollout.mask.any():
            raise UserError(
                "stage iterate: the answers have no steps that a reward could stand on, as those of a sampler without "
                "noise have none (eta 0, sampler: ode); sample with noise"
            )
        totals = masked_sum(self._reward(rollout).per_step, rollout.mask, 1)
        bad = (~torch.isfinite(totals)).nonzero().flatten().tolist()
        if bad:
            raise UserError(f"stage iterate: the reward of row {rollout.rows[bad[0]].id!r} is not finite")
        return totals

    def scores(self, rollouts: Sequence[Rollout], n: int) -> Tensor:
        """Total reward, ``[P, n]``."""
        return torch.cat([self.totals(rollout) for rollout in rollouts]).view(-1, n)

    def preference(self, ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> Tensor:
        """``sigmoid(reward - reward')``, ``[P * n]``."""
        first, second = self.scores(ours, 1), self.scores(theirs, 1)
        return torch.sigmoid(first - second).flatten()


class JudgeLabels:
    """Scores are mean probabilities of winning against the other answers to the prompt, each asked in both orders.

    Args:
        judge: asks a comparer in both orders.
    """

    def __init__(self, judge: OrderSwapped) -> None:
        self._judge = judge

    def scores(self, rollouts: Sequence[Rollout], n: int) -> Tensor:
        """Mean winning probability against the prompt's other answers, ``[P, n]`` in [0, 1]."""
        rows = [row for rollout in rollouts for row in rollout.rows]
        table = torch.zeros(len(rows) // n, n)
        for prompt in range(len(table)):
            answers = rows[prompt * n : (prompt + 1) * n]
            for a in range(n):
                for b in range(a + 1, n):
                    wins = self._ask(answers[a], answers[b])
                    table[prompt, a] += wins
                    table[prompt, b] += 1.0 - wins
        return table / max(1, n - 1)

    def preference(self, ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> Tensor:
        """Probability of winning against the opponent's answer, ``[P * n]``."""
        mine = [row for rollout in ours for row in rollout.rows]
        other = [row for rollout in theirs for row in rollout.rows]
        return torch.tensor([self._ask(a, b) for a, b in zip(mine, other, strict=True)])

    def _ask(self, a: Row, b: Row) -> float:
        return self._judge.prefer(a, a.completion, b.completion).probability


class PolicyComparer:
    """The policy as its own judge: which of two words does it give more probability after both answers.

    ``P(first wins) = p(word 1) / (p(word 1) + p(word 2))`` at the first step of the reply, from the likelihood alone,
    so it serves every modality whose prompts and answers are text.

    *Reference:* Yuan et al. (2024, arXiv:2401.10020), a policy that judges itself. *Differs from paper:* it compares
    two answers, read from the likelihood, instead of writing a score from 0 to 5 that is parsed and averaged.

    Args:
        adapter: the modality.
        model: the policy; it is read when a comparison is asked for.
        template: the question, with ``{prompt}``, ``{first}`` and ``{second}``.
        words: the replies that name the first and the second answer.

    Raises:
        UserError: when the template names no ``{first}`` or no ``{second}``.
    """

    def __init__(self, adapter: Likelihood, model: nn.Module, template: str, words: tuple[str, str]) -> None:
        for name in ("{first}", "{second}"):
            if name not in template:
                raise UserError(f"iterate.judge_template: expected {name} in the text, found {template!r}")
        self._adapter, self._model, self._template, self._words = adapter, model, template, words

    @torch.no_grad()
    def compare(self, row: Row, first: str, second: str) -> float:
        """Probability in [0, 1] that the answer shown first is the better one.

        Raises:
            UserError: when both replies start with the same step.
        """
        prompt = _asked(row.prompt, self._template, str(first), str(second))
        rows = [replace(row, prompt=prompt, completion=word, steps=None, segments=()) for word in self._words]
        firsts = self._adapter.logp(self._model, self._adapter.collate(rows)).values[:, 0]
        one, other = firsts.tolist()
        if one == other:
            raise UserError(
                f"iterate.judge_answers: {self._words[0]!r} and {self._words[1]!r} start with the same step; "
                "choose replies that start differently"
            )
        return float(torch.sigmoid(firsts[0] - firsts[1]))


def _asked(prompt: Any, template: str, first: str, second: str) -> Any:
    """The question as text, or in the place of the text of the last message of a conversation."""

    def filled(text: str) -> str:
        parts = {"{prompt}": text, "{first}": first, "{second}": second}
        pieces, rest = [], template
        while rest:
            found = min(((rest.find(key), key) for key in parts if key in rest), default=None)
            if found is None:
                break
            pieces += [rest[: found[0]], parts[found[1]]]
            rest = rest[found[0] + len(found[1]) :]
        return "".join([*pieces, rest])

    if not (isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict)):
        return filled(prompt if isinstance(prompt, str) else str(prompt))
    last = prompt[-1]
    content = last["content"]
    if isinstance(content, str):
        return [*prompt[:-1], {**last, "content": filled(content)}]
    texts = [part["text"] for part in content if part.get("type") == "text"]
    others = [part for part in content if part.get("type") != "text"]
    return [*prompt[:-1], {**last, "content": [*others, {"type": "text", "text": filled(" ".join(texts))}]}]
