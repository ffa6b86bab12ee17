"""What a head reads of a segment, and the heads themselves.

``state``: ``h_{T_i}``, the state after the segment's last step (FGAIF).

``surprise``: the states before and after each step, averaged with the weights ``-log p(a_t)``, next to
``h_{T_i}`` and five numbers (sum, minimum and mean of log p; sum and maximum of the entropy).  A wrong
word is often one the start policy was unsure of, so its states are the ones to look at.  On a frozen
trunk this reads what a state at the full stop no longer holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmalign.errors import UserError, nearest

__all__ = ["Context", "Read", "SegmentHead", "check_options", "read_segments"]

Context = Literal["completion", "segment", "both"]
Read = Literal["state", "surprise"]

NUMBERS = 5
LARGEST = 8.0


def check_options(context: str, read: str, head: str) -> None:
    """Refuse unknown options.

    Raises:
        UserError: naming the option and its nearest valid value.
    """
    known = {
        "context": ("completion", "segment", "both"),
        "read": ("state", "surprise"),
        "head": ("linear", "mlp"),
    }
    for name, value in (("context", context), ("read", read), ("head", head)):
        if value not in known[name]:
            raise UserError(f"{name}: {value!r} is not one of {known[name]}{nearest(value, known[name])}.")


def read_segments(
    read: Read, spans: Sequence[tuple[int, int]], hidden: Tensor, logp: Tensor, entropy: Tensor | None
) -> Tensor:
    """Features of the segments of one answer.

    Args:
        read: ``state`` gives ``[n, H]``, ``surprise`` ``[n, 3 H + 5]``.
        spans: ``n`` half-open step spans.
        hidden: ``[T + 1, H]`` states of this answer.
        logp: ``[T]`` log-probabilities of its steps in nats.
        entropy: ``[T]`` entropies in nats; needed for ``surprise``.
    """
    ends = torch.tensor([end for _, end in spans], device=hidden.device)
    last = hidden[ends]
    if read == "state":
        return last
    assert entropy is not None
    starts = torch.tensor([start for start, _ in spans], device=hidden.device)
    steps = torch.arange(logp.shape[0], device=hidden.device)[None, :]
    inside = (steps >= starts[:, None]) & (steps < ends[:, None])
    n = (ends - starts).float()
    lp, ent = (torch.where(inside, value.float()[None, :], 0.0) for value in (logp, entropy))
    weight = lp.neg().clamp(0.0, LARGEST)
    around = torch.cat([hidden[:-1], hidden[1:]], dim=-1)
    pooled = weight @ around / (weight.sum(dim=1, keepdim=True) + 1e-3)
    numbers = torch.stack([lp.sum(1), lp.min(1).values, lp.sum(1) / n, ent.sum(1), ent.max(1).values], dim=1)
    return torch.cat([pooled, last, numbers.clamp(-20.0, 20.0) / 3.0], dim=1)


class SegmentHead(nn.Module):
    """Normalise the states that were read, then a linear layer or an MLP of width ``H`` to 3 classes."""

    def __init__(
        self, hidden_size: int, context: Context, read: Read, kind: Literal["linear", "mlp"]
    ) -> None:
        super().__init__()
        self.parts: list[int] = []
        if context != "segment":
            self.parts += [hidden_size] if read == "state" else [2 * hidden_size, hidden_size, NUMBERS]
        if context != "completion":
            self.parts.append(hidden_size)
        self.norms = nn.ModuleList(
            nn.Identity() if size == NUMBERS else nn.LayerNorm(size) for size in self.parts
        )
        width = sum(self.parts)
        self.body: nn.Module = nn.Identity()
        if kind == "mlp":
            self.body = nn.Sequential(nn.Linear(width, hidden_size), nn.GELU())
            width = hidden_size
        self.last = nn.Linear(width, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, 3]`` of the classes -1, 0, +1 from features ``[N, F]``."""
        pieces = [
            norm(piece) for norm, piece in zip(self.norms, features.split(self.parts, dim=-1), strict=True)
        ]
        logits: Tensor = self.last(self.body(torch.cat(pieces, dim=-1)))
        return logits
