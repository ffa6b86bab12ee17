"""FGAIF's reward models: one per hallucination type, three classes read at every segment's end.

    p(c | s_i, type l) = softmax(head_l(x_i))    c in (-1, 0, +1)

Reference: FGAIF (Jing and Du, 2024, arXiv:2404.05046), section on reward models; token classifiers
of Fine-Grained RLHF (Wu et al., 2023, arXiv:2306.01693).

Differs from paper: ``read="surprise"`` (the default) reads more than the state at the segment's end (see
``heads``), by an MLP; ``read="state", head="linear"`` is the paper's.  ``shared_trunk`` puts three heads
on one trunk (a third of the cost); ``train_trunk=False`` trains heads only; ``context="segment"``
(or ``"both"``) reads each segment as a verification prompt of its own.  Nothing is inserted into the text: segment
ends are the step spans recorded at generation.  Any modality with ``Likelihood`` serves as trunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.reward_model import segment_cross_entropy
from mmalign.protocols import Conditioned, Likelihood
from mmalign.rewards.fgaif.data import IGNORE, segment_labels
from mmalign.rewards.fgaif.heads import Context, Read, SegmentHead, check_options
from mmalign.rewards.fgaif.reading import read_completions, read_verifications
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
            whole answer (FGAIF); ``segment`` asks ``template`` about each segment by itself; ``both``
            gives the head both.
        template: verification prompt with ``{segment}``.
        answer: completion of the verification prompt; the state before its first step is read.
        read: what is taken from the answer, ``state`` or ``surprise``, see ``heads``.
        head: ``linear`` or ``mlp`` (one hidden layer of width ``H``).
        train_trunk: false trains the heads alone; features are then computed once per training row.
        blank_media: a control: rows are blanked before they are read, in training and in scoring.

    Raises:
        UserError: when the trunks do not match the types or an option is unknown.
    """

    def __init__(
        self,
        adapter: Likelihood,
        trunks: Mapping[str, nn.Module],
        types: Sequence[str] = TYPES,
        *,
        hidden_size: int,
        context: Context = "completion",
        template: str = TEMPLATE,
        answer: str = "yes",
        read: Read = "surprise",
        head: Literal["linear", "mlp"] = "mlp",
        train_trunk: bool = True,
        blank_media: bool = False,
    ) -> None:
        super().__init__()
        if set(trunks) not in ({SHARED}, set(types)):
            names = f"expected {{'shared'}} or one per type {list(types)}, found {sorted(trunks)}"
            raise UserError(f"trunks: {names}.")
        check_options(context, read, head)
        self.adapter = adapter
        self.types = tuple(types)
        self.options: dict[str, Any] = {
            "types": list(types), "hidden_size": hidden_size, "context": context, "template": template,
            "answer": answer, "read": read, "head": head, "train_trunk": train_trunk,
            "blank_media": blank_media,
        }  # fmt: skip
        self.trunks = nn.ModuleDict(dict(trunks))
        self.trunks.requires_grad_(train_trunk)
        self.heads = nn.ModuleDict({kind: SegmentHead(hidden_size, context, read, head) for kind in types})
        self._kept: dict[tuple[str, int], tuple[Row, Tensor]] = {}

    @classmethod
    def build(
        cls,
        adapter: Likelihood,
        source: str,
        probe: Row,
        types: Sequence[str] = TYPES,
        *,
        shared_trunk: bool = True,
        context: Context = "completion",
        template: str = TEMPLATE,
        answer: str = "yes",
        read: Read = "surprise",
        head: Literal["linear", "mlp"] = "mlp",
        train_trunk: bool = True,
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
            read: see the class.
            head: see the class.
            train_trunk: see the class.
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
        model = cls(
            adapter, trunks, types, hidden_size=out.hidden.shape[-1], context=context, template=template,
            answer=answer, read=read, head=head, train_trunk=train_trunk, blank_media=blank_media,
        )  # fmt: skip
        model.heads.to(out.hidden.device)
        return model

    @property
    def shared_trunk(self) -> bool:
        """True when every head reads the same trunk."""
        return set(self.trunks) == {SHARED}

    def logits(
        self, rows: Sequence[Row], batch_size: int | None = None, keep: bool = False
    ) -> dict[str, Tensor]:
        """Class logits ``[N, 3]`` per type for every segment, row by row (classes -1, 0, +1).

        Args:
            rows: rows with segments (and steps or a completion, for ``context="completion"``).
            batch_size: model rows per pass; ``None`` takes all at once.
            keep: keep the features of frozen trunks for the next call with the same row objects.
        """
        features = {name: self._features(name, rows, batch_size, keep) for name in self.trunks}
        return {
            kind: self.heads[kind](features[SHARED if self.shared_trunk else kind]) for kind in self.types
        }

    def loss(self, rows: Sequence[Row]) -> tuple[Tensor, dict[str, float]]:
        """Mean over types of the cross-entropy at segment ends, and its metrics.

        Types without a labelled segment in ``rows`` are left out of the mean.

        Returns:
            The loss (nats per segment) and ``loss/<type>``, ``accuracy/<type>``.
        """
        logits = self.logits(rows, keep=not self.options["train_trunk"])
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
            raise UserError(
                f"{folder}: no reward_model.json here; expected a folder that a reward model saved."
            )
        options = json.loads(path.read_text())
        names = options.pop("trunks")
        trunks = {
            name: adapter.load(str(Path(folder) / f"trunk-{name}"), device=device, dtype=dtype)
            for name in names
        }
        model = cls(adapter, trunks, **options)
        model.heads.load_state_dict(load_file(str(Path(folder) / "heads.safetensors")))
        model.heads.to(device)
        return model

    def _features(self, name: str, rows: Sequence[Row], batch_size: int | None, keep: bool) -> Tensor:
        """Features ``[N, F]`` of every segment under one trunk."""
        told = [row for row in rows if row.segments]
        if not told:
            head = next(iter(self.heads.values()))
            return next(head.parameters()).new_zeros((0, sum(head.parts)))  # type: ignore[arg-type]
        new = [row for row in told if not (keep and (name, id(row)) in self._kept)]
        fresh: dict[int, Tensor] = {}
        if new:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.options["train_trunk"]):
                fresh = dict(zip(map(id, new), self._read(name, new, batch_size), strict=True))
        if keep:
            self._kept.update({(name, id(row)): (row, fresh[id(row)]) for row in new})
            return torch.cat([self._kept[(name, id(row))][1] for row in told])
        return torch.cat([fresh[id(row)] for row in told])

    def _read(self, name: str, rows: Sequence[Row], batch_size: int | None) -> list[Tensor]:
        options, trunk = self.options, self.trunks[name]
        seen = [self._seen(row) for row in rows]
        found = []
        if options["context"] in ("completion", "both"):
            found.append(read_completions(self.adapter, trunk, seen, options["read"], batch_size))
        if options["context"] in ("segment", "both"):
            asked = (options["template"], options["answer"], batch_size)
            found.append(read_verifications(self.adapter, trunk, seen, *asked))
        return [torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)]

    def _seen(self, row: Row) -> Row:
        if not self.options["blank_media"]:
            return row
        if not isinstance(self.adapter, Conditioned):
            raise UserError(f"modality {self.adapter.name!r} has no blank(row), which blank_media needs.")
        return self.adapter.blank(row)
