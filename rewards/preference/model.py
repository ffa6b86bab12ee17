"""Reward models on compared answers, on the policy's own trunk, for any modality with ``Likelihood``.

    score      r(x, y) = pool_t head(h_t),  P(a better than b) = sigmoid(r_a - r_b)     Bradley-Terry, Plackett-Luce
    pairwise   P(a better than b) = sigmoid((f(h_a, h_b) - f(h_b, h_a)) / 2)            sees both answers
    ensemble   M members: heads apart, trunks too unless shared, each on its own share of the prompts if bootstrapped

Steps are real steps of ``LogP.hidden``, never counted tokens.  Candidates may carry media of their own.

Reference: Ouyang et al. (2022, arXiv:2203.02155) for ``K`` ranked answers; Munos et al. (2023, arXiv:2312.00886) for
the pairwise model; Coste et al. (2023, arXiv:2310.02743) for ensembles; Yang et al. (2024, arXiv:2406.10216) for
``lm_coef``.

Differs from paper: LayerNorm before the head, which starts at 0; scores are standardised per member on the start
policy's answers (``calibrate``), because a Bradley-Terry score has neither zero nor unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.preference.data import Ranked
from mmalign.rewards.preference.heads import PairHead, ValueHead, pooled, step_parts
from mmalign.rewards.preference.losses import (
    Compared,
    best_nll,
    candidates,
    compared,
    learns_from,
    pair_loss,
    score_loss,
)
from mmalign.rewards.preference.options import Options
from mmalign.rewards.preference.reading import Reading, feature_sizes, hidden_size, padded, read_rows
from mmalign.rewards.preference.storage import read_record, write_record
from mmalign.rewards.preference.view import View
from mmalign.types import Row

__all__ = ["PreferenceRewardModel"]


class PreferenceRewardModel(nn.Module):
    """An ensemble (of one, by default) of heads on one trunk or on a trunk each.

    Args:
        adapter: the modality's adapter.
        trunks: ``{"shared": model}``, or one model per member, called ``"0"``, ``"1"``, ...
        options: see :class:`~mmalign.rewards.preference.options.Options`.
        width: width ``H`` of ``LogP.hidden``.
        view: what the model is shown of a row; the row itself by default.
        device: where heads and trunks live.

    Raises:
        UserError: when the trunks do not match the options.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        adapter: Likelihood,
        trunks: Mapping[str, nn.Module],
        options: Options,
        *,
        width: int,
        view: View | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        if sorted(trunks) != sorted(options.trunk_names):
            raise UserError(f"trunks: expected {options.trunk_names}, found {sorted(trunks)}.")
        self.adapter, self.options, self.width = adapter, options, width
        self.view = view or View(adapter)
        self.trunks = nn.ModuleDict(dict(trunks))
        self.trunks.requires_grad_(options.train_trunk)
        sizes = feature_sizes(width, options.read)
        paired = options.loss == "pairwise" and options.compare == "states"
        heads = [
            PairHead(sizes, k) if paired else ValueHead(sizes, options.head, k)
            for k in range(options.members)
        ]
        self.heads = nn.ModuleDict({str(k): head for k, head in enumerate(heads)})
        self.register_buffer("center", torch.zeros(options.members))
        self.register_buffer("scale", torch.ones(options.members))
        self.to(device)
        self._kept: dict[tuple[str, int], tuple[Row, Reading]] = {}

    @classmethod
    def build(
        cls,
        adapter: Likelihood,
        source: str,
        probe: Row,
        options: Options,
        *,
        view: View | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> PreferenceRewardModel:
        """Load the trunk(s) through the adapter; one pass over ``probe`` finds the hidden size.

        Args:
            adapter, options, view: see the class.
            source: folder or hub name of the start model.
            probe: any row with an answer.
            device: where the trunks live.
            dtype: number type of the trunks (heads stay float32).
        """
        trunks = {n: adapter.load(source, device=device, dtype=dtype) for n in options.trunk_names}
        width = hidden_size(adapter, next(iter(trunks.values())), probe)
        return cls(adapter, trunks, options, width=width, view=view, device=device)

    def loss(self, groups: Sequence[Ranked]) -> tuple[Tensor, dict[str, float]]:
        """Mean over members of the configured loss, and its metrics.

        Returns:
            The loss (nats per prompt, or per position) and ``accuracy`` (share of pairs in the right order),
            ``margin`` (mean score gap) and, where it is asked for, ``lm`` (nats per step of the best answers).
        """
        rows = [row for group in groups for row in group.rows]
        options, paired = self.options, self.options.compare == "text"
        keep = not self.options.train_trunk
        readings = {} if paired else {name: self._read(name, rows, None, keep=keep) for name in self.trunks}
        losses, metrics = [], []
        for member in self.heads:
            mine = [i for i, group in enumerate(groups) if learns_from(group, member, options)]
            if not mine:
                continue
            pairs = compared([groups[i] for i in mine], self.center.device)
            flat = [row for i in mine for row in groups[i].rows]
            known = candidates(readings.get(self._trunk(member), []), groups, mine)
            value, gaps = self._member_loss(member, flat, known, pairs)
            found = {"accuracy": float((gaps > 0).float().mean()), "margin": float(gaps.detach().mean())}
            if self.options.lm_coef:
                nll = best_nll(known, pairs)
                value, found["lm"] = value + self.options.lm_coef * nll, float(nll.detach())
            losses.append(value)
            metrics.append(found)
        if not losses:
            return torch.zeros((), requires_grad=True), {}
        return torch.stack(losses).mean(), {n: sum(m[n] for m in metrics) / len(metrics) for n in metrics[0]}

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], batch_size: int = 64, *, standard: bool = True) -> Tensor:
        """Scores ``[M, B]`` of answers, per member.

        Args:
            rows, batch_size: answered rows and how many per pass.
            standard: in standard deviations of the start policy's answers (see ``calibrate``), or raw.
        """
        found = torch.stack([part.sum(dim=1) for part in self.step_scores(rows, batch_size)], dim=1)
        return found if standard else found * self.scale[:, None] + self.center[:, None]

    @torch.no_grad()
    def step_scores(self, rows: Sequence[Row], batch_size: int = 64) -> list[Tensor]:
        """Each step's part ``[M, n]`` of every answer's standardised score; the parts add up to ``scores``.

        Under ``pool: sum`` or ``mean`` a part is the step's own value, the zero point spread over the steps; under
        ``last`` all of it is the last step's.

        Raises:
            UserError: for a pairwise model, which has no score of one answer; see ``odds``.
        """
        if self.options.loss == "pairwise":
            raise UserError("a pairwise model scores no answer by itself; use odds(first, second).")
        training = self.training
        self.eval()
        found = {name: self._read(name, rows, batch_size) for name in self.trunks}
        self.train(training)
        parts = []
        for b in range(len(rows)):
            values = torch.stack([self.heads[m](found[self._trunk(m)][b].features) for m in self.heads])
            parts.append(step_parts(values, self.options.pool, self.center, self.scale))
        return parts

    @torch.no_grad()
    def odds(self, first: Sequence[Row], second: Sequence[Row], batch_size: int = 64) -> Tensor:
        """Logits ``[M, P]`` that ``first[p]`` is better than ``second[p]``, for any loss; antisymmetric."""
        if self.options.loss != "pairwise":
            a, b = (self.scores(rows, batch_size, standard=False) for rows in (first, second))
            return a - b
        training = self.training
        self.eval()
        found = []
        for name, head in self.heads.items():
            if self.options.compare == "text":
                found.append(self._text_logits(name, first, second, batch_size))
            else:
                states = self._pooled(self._read(self._trunk(name), [*first, *second], batch_size))
                found.append(head(states[: len(first)], states[len(first) :]))
        self.train(training)
        return torch.stack(found)

    def calibrate(self, rows: Sequence[Row], batch_size: int = 64) -> None:
        """Set each member's zero and unit to the mean and standard deviation of its scores of ``rows``.

        A pairwise model has a zero by construction, a cost model from its sign terms: they are left alone.
        """
        if self.options.loss in ("pairwise", "cost"):
            return
        raw = self.scores(rows, batch_size, standard=False)
        self.center.copy_(raw.mean(dim=1))
        self.scale.copy_(raw.std(dim=1, correction=0).clamp(min=1e-6))

    def save(self, folder: Path) -> None:
        """Write ``reward_model.json``, ``heads.safetensors`` and one folder per trunk."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, trunk in self.trunks.items():
            self.adapter.save(trunk, folder / f"trunk-{name}")
        state = {**self.heads.state_dict(), "center": self.center, "scale": self.scale}
        save_file({n: v.contiguous().cpu() for n, v in state.items()}, str(folder / "heads.safetensors"))
        write_record(
            folder, {"options": asdict(self.options), "width": self.width, "view": self.view.describe()}
        )

    @classmethod
    def load(
        cls,
        adapter: Likelihood,
        folder: Path,
        *,
        view: View | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> PreferenceRewardModel:
        """Read what ``save`` wrote; a ``UserError`` says that the folder holds no such model."""
        record = read_record(folder)
        options = Options(**record["options"])
        trunks = {
            n: adapter.load(str(folder / f"trunk-{n}"), device=device, dtype=dtype)
            for n in options.trunk_names
        }
        model = cls(adapter, trunks, options, width=record["width"], view=view, device=device)
        state = load_file(str(folder / "heads.safetensors"))
        model.center.copy_(state.pop("center"))
        model.scale.copy_(state.pop("scale"))
        model.heads.load_state_dict(state)
        return model

    def _trunk(self, member: str) -> str:
        return self.options.trunk_names[0] if self.options.shared_trunk else member

    def _member_loss(
        self, member: str, rows: Sequence[Row], readings: Sequence[Reading], pairs: Compared
    ) -> tuple[Tensor, Tensor]:
        """One member's loss and the gaps (or logits) ``[P]`` of its pairs."""
        options = self.options
        if options.loss != "pairwise":
            return score_loss(self._score(member, readings), pairs, options)
        if options.compare == "text":
            first = [rows[int(k)] for k in pairs.better]
            second = [rows[int(k)] for k in pairs.worse]
            logits = self._text_logits(member, first, second, None)
        else:
            states = self._pooled(readings)
            logits = self.heads[member](states[pairs.better], states[pairs.worse])
        return pair_loss(logits, pairs), logits

    def _text_logits(
        self, member: str, first: Sequence[Row], second: Sequence[Row], batch_size: int | None
    ) -> Tensor:
        """``(v(a beside b) - v(b beside a)) / 2``: each answer is scored with the other in its prompt."""
        shown = [self.view(a, b) for a, b in zip([*first, *second], [*second, *first], strict=True)]
        trunk = self.trunks[self._trunk(member)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.train_trunk):
            readings = read_rows(self.adapter, trunk, shown, self.options.read, batch_size)
        values = self._score(member, readings)
        return (values[: len(first)] - values[len(first) :]) / 2.0

    def _score(self, member: str, readings: Sequence[Reading]) -> Tensor:
        features, mask = padded(readings)
        return pooled(self.heads[member](features), mask, self.options.pool)

    def _pooled(self, readings: Sequence[Reading]) -> Tensor:
        features, mask = padded(readings)
        return pooled(features, mask, self.options.pool)

    def _read(
        self, name: str, rows: Sequence[Row], batch_size: int | None, *, keep: bool = False
    ) -> list[Reading]:
        """Readings of rows as the view shows them; those of a frozen trunk are kept for the same row objects."""
        new = [row for row in rows if not (keep and (name, id(row)) in self._kept)]
        fresh: dict[int, Reading] = {}
        if new:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.train_trunk):
                shown = [self.view(row) for row in new]
                read = read_rows(self.adapter, self.trunks[name], shown, self.options.read, batch_size)
            fresh = dict(zip(map(id, new), read, strict=True))
        if keep:
            self._kept.update({(name, id(row)): (row, fresh[id(row)]) for row in new})
            return [self._kept[(name, id(row))][1] for row in rows]
        return [fresh[id(row)] for row in rows]
