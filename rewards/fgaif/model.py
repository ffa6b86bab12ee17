"""FGAIF's reward models: one per hallucination type, three classes read at every segment's end.

    p(c | s_i, type l) = softmax(W_l norm(h_{T_i}))    c in (-1, 0, +1)

Reference: FGAIF (Jing and Du, 2024, arXiv:2404.05046), section on reward models; token classifiers
of Fine-Grained RLHF (Wu et al., 2023, arXiv:2306.01693).

Differs from paper: a LayerNorm stands before the linear head; ``shared_trunk`` puts three heads on one
trunk (a third of the cost); ``context="segment"`` scores each segment as the answer to a verification
prompt instead of inside the whole answer; nothing is inserted into the text: segment ends are
the step spans recorded at generation.  Any modality with ``Likelihood`` serves as trunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.reward_model import segment_cross_entropy
from mmalign.protocols import Conditioned, Likelihood
from mmalign.rewards.fgaif.data import IGNORE, segment_labels, segment_rows
from mmalign.rewards.shaping import TYPES
from mmalign.types import Row

__all__ = ["TEMPLATE", "SegmentRewardModel"]

TEMPLATE = "is this true : {segment} ?"
"""Verification prompt of ``context="segment"``."""

SHARED = "shared"


class SegmentRewardModel(nn.Module):
    """Three-class heads, one per type, on one shared trunk or on a trunk of their own.

    Args:
        adapter: the modality's adapter (``Likelihood``).
        trunks: ``{"shared": model}`` or one model per type.
        types: the hallucination types.
        hidden_size: width ``H`` of ``LogP.hidden``.
        context: ``completion`` reads the state after each segment's last step in one pass over the
            whole answer (FGAIF); ``segment`` asks ``template`` about each segment by itself.
        template: verification prompt with ``{segment}``.
        answer: completion of the verification prompt; its first step is where the head reads.
        head: ``linear`` or ``mlp`` (one hidden layer of width ``H``).
        blank_media: a control: rows are blanked before they are read, in training and in scoring.

    Raises:
        UserError: when the trunks do not match the types or the context is unknown.
    """

    def __init__(
        self,
        adapter: Likelihood,
        trunks: Mapping[str, nn.Module],
        types: Sequence[str] = TYPES,
        *,
        hidden_size: int,
        context: Literal["completion", "segment"] = "completion",
        template: str = TEMPLATE,
        answer: str = "yes",
        head: Literal["linear", "mlp"] = "linear",
        blank_media: bool = False,
    ) -> None:
        super().__init__()
        if set(trunks) not in ({SHARED}, set(types)):
            raise UserError(f"trunks: expected {{'shared'}} or one per type {list(types)}, found {sorted(trunks)}.")
        if context not in ("completion", "segment"):
            raise UserError(f"context: {context!r} is neither 'completion' nor 'segment'.")
        self.adapter = adapter
        self.types = tuple(types)
        self.options: dict[str, Any] = {
            "types": list(types), "hidden_size": hidden_size, "context": context,
            "template": template, "answer": answer, "head": head, "blank_media": blank_media,
        }  # fmt: skip
        self.trunks = nn.ModuleDict(dict(trunks))
        self.heads = nn.ModuleDict({kind: _head(hidden_size, head) for kind in types})

    @classmethod
    def build(
        cls,
        adapter: Likelihood,
        source: str,
        probe: Row,
        types: Sequence[str] = TYPES,
        *,
        shared_trunk: bool = True,
        context: Literal["completion", "segment"] = "completion",
        template: str = TEMPLATE,
        answer: str = "yes",
        head: Literal["linear", "mlp"] = "linear",
        blank_media: bool = False,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> SegmentRewardModel:
        """Load the trunk(s) through the adapter; one pass over ``probe`` finds the hidden size.

        Args:
            adapter: the modality's adapter.
            source: folder or hub name of the start model.
            probe: any row with a completion.
            types: the hallucination types.
            shared_trunk: one trunk with a head per type, or a trunk per type (the paper).
            context: see the class.
            template: see the class.
            answer: see the class.
            head: see the class.
            blank_media: see the class.
            device: where the trunks live.
            dtype: number type of the trunks (heads stay float32).
        """
        names = [SHARED] if shared_trunk else list(types)
        trunks = {name: adapter.load(source, device=device, dtype=dtype) for name in names}
        with torch.no_grad():
            out = adapter.logp(trunks[names[0]], adapter.collate([probe]), hidden=True)
        if out.hidden is None:
            raise UserError(f"modality {adapter.name!r} gives no hidden states, which a reward model reads.")
        model = cls(adapter, trunks, types, hidden_size=out.hidden.shape[-1], context=context,
                    template=template, answer=answer, head=head, blank_media=blank_media)  # fmt: skip
        model.heads.to(out.hidden.device)
        return model

    @property
    def shared_trunk(self) -> bool:
        """True when every head reads the same trunk."""
        return set(self.trunks) == {SHARED}

    def logits(self, rows: Sequence[Row], batch_size: int | None = None) -> dict[str, Tensor]:
        """Class logits ``[N, 3]`` per type for every segment, row by row (classes -1, 0, +1).

        Args:
            rows: rows with segments (and steps or a completion, for ``context="completion"``).
            batch_size: model rows per pass; ``None`` takes all at once.
        """
        if not any(row.segments for row in rows):
            return {kind: self._empty(kind) for kind in self.types}
        if self.options["blank_media"]:
            if not isinstance(self.adapter, Conditioned):
                raise UserError(f"modality {self.adapter.name!r} has no blank(row), which blank_media needs.")
            rows = [self.adapter.blank(row) for row in rows]
        if self.shared_trunk:
            state = self._states(self.trunks[SHARED], rows, batch_size)
            return {kind: self.heads[kind](state) for kind in self.types}
        return {
            kind: self.heads[kind](self._states(self.trunks[kind], rows, batch_size)) for kind in self.types
        }

    def loss(self, rows: Sequence[Row]) -> tuple[Tensor, dict[str, float]]:
        """Mean over types of the cross-entropy at segment ends, and its metrics.

        Types without a labelled segment in ``rows`` are left out of the mean.

        Returns:
            The loss (nats per segment) and ``loss/<type>``, ``accuracy/<type>``.
        """
        logits = self.logits(rows)
        losses = []
        metrics: dict[str, float] = {}
        for kind in self.types:
            targets = segment_labels(rows, kind).to(logits[kind].device)
            known = targets != IGNORE
            if not bool(known.any()):
                continue
            losses.append(segment_cross_entropy(logits[kind][known], targets[known]))
            metrics[f"loss/{kind}"] = float(losses[-1].detach())
            right = logits[kind][known].argmax(dim=-1) - 1 == targets[known]
            metrics[f"accuracy/{kind}"] = float(right.float().mean())
        if not losses:
            return torch.zeros((), requires_grad=True), metrics
        return torch.stack(losses).mean(), metrics

    @torch.no_grad()
    def predict(self, rows: Sequence[Row], batch_size: int = 64) -> dict[str, Tensor]:
        """Class probabilities ``[N, 3]`` per type for every segment, row by row (classes -1, 0, +1)."""
        training = self.training
        self.eval()
        try:
            logits = self.logits(rows, batch_size)
        finally:
            self.train(training)
        return {kind: value.softmax(dim=-1) for kind, value in logits.items()}

    def save(self, folder: Path) -> None:
        """Write ``reward_model.json``, ``heads.safetensors`` and one folder per trunk."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, trunk in self.trunks.items():
            self.adapter.save(trunk, folder / f"trunk-{name}")
        heads = {name: value.contiguous().cpu() for name, value in self.heads.state_dict().items()}
        save_file(heads, str(folder / "heads.safetensors"))
        text = json.dumps({**self.options, "trunks": list(self.trunks)}, indent=1)
        (folder / "reward_model.json").write_text(text + "\n")

    @classmethod
    def load(
        cls, adapter: Likelihood, folder: Path, *, device: str = "cpu", dtype: str = "float32"
    ) -> SegmentRewardModel:
        """Read what ``save`` wrote.

        Raises:
            UserError: when the folder holds no reward model.
        """
        path = Path(folder) / "reward_model.json"
        if not path.is_file():
            raise UserError(f"{folder}: no reward_model.json here; expected a folder that a reward model saved.")
        options = json.loads(path.read_text())
        names = options.pop("trunks")
        trunks = {
            name: adapter.load(str(Path(folder) / f"trunk-{name}"), device=device, dtype=dtype) for name in names
        }
        model = cls(adapter, trunks, **options)
        model.heads.load_state_dict(load_file(str(Path(folder) / "heads.safetensors")))
        model.heads.to(device)
        return model

    def _empty(self, kind: str) -> Tensor:
        parameter = next(self.heads[kind].parameters())
        return parameter.new_zeros((0, 3))

    def _states(self, trunk: nn.Module, rows: Sequence[Row], batch_size: int | None) -> Tensor:
        if self.options["context"] == "segment":
            units = segment_rows(rows, self.options["template"], self.options["answer"])
            states = self._passes(trunk, units.rows, batch_size, lambda row, hidden: hidden[:1])
            return torch.cat(states)[torch.tensor(units.index, device=states[0].device)]
        return torch.cat(self._passes(trunk, rows, batch_size, _segment_ends))

    def _passes(
        self,
        trunk: nn.Module,
        rows: Sequence[Row],
        batch_size: int | None,
        read: Callable[[Row, Tensor], Tensor],
    ) -> list[Tensor]:
        """Run rows of similar length together; return what ``read`` takes from each, in order."""
        order = [i for i in range(len(rows)) if read is not _segment_ends or rows[i].segments]
        order.sort(key=lambda i: len(str(rows[i].prompt)) + len(str(rows[i].completion)))
        size = batch_size or max(len(order), 1)
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), size):
            picked = order[start : start + size]
            batch = self.adapter.collate([rows[i] for i in picked])
            hidden = self.adapter.logp(trunk, batch, hidden=True).hidden
            if hidden is None:
                raise UserError(f"modality {self.adapter.name!r} gives no hidden states.")
            found.update({i: read(rows[i], hidden[b].float()) for b, i in enumerate(picked)})
        return [found[i] for i in sorted(found)]


def _segment_ends(row: Row, hidden: Tensor) -> Tensor:
    ends = [segment.end for segment in row.segments]
    if max(ends) >= hidden.shape[0]:
        raise UserError(f"row {row.id!r}: a segment ends at step {max(ends)} of {hidden.shape[0] - 1}.")
    return hidden[torch.tensor(ends, device=hidden.device)]


def _head(width: int, kind: str) -> nn.Module:
    last = nn.Linear(width, 3)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if kind == "mlp":
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), last)
    return nn.Sequential(nn.LayerNorm(width), last)
