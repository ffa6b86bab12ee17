"""The delay pattern: which codebook of which frame is drawn in which step.

Codebook ``k`` of frame ``f`` is drawn in step ``f + delay[k]``, so that a step is a tuple of codes that are independent
given everything before it.  ``F`` frames take ``F + max(delay)`` steps; where a codebook has nothing to draw in a step
(before its first frame, after its last) the model reads a special token that nobody draws.

*Reference:* Copet et al., Simple and Controllable Music Generation (2023), arXiv:2306.05284, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DelayPattern"]


@dataclass(frozen=True, slots=True)
class DelayPattern:
    """Delays of the codebooks in steps, and the special token in undrawn places.

    Args:
        delays: one number per codebook, the smallest 0.
        special: the token id the model reads where nothing was drawn.
    """

    delays: tuple[int, ...]
    special: int

    @classmethod
    def of(cls, codebooks: int, channels: int, special: int) -> DelayPattern:
        """MusicGen's pattern: one step more per codebook; left and right channels side by side where there are two."""
        return cls(tuple(k // channels for k in range(codebooks)), special)

    @property
    def codebooks(self) -> int:
        """Number of codebooks ``K``."""
        return len(self.delays)

    @property
    def extra(self) -> int:
        """Steps beyond the number of frames."""
        return max(self.delays)

    def valid(self, frames: Sequence[int] | Tensor, steps: int, books: int | None = None) -> Tensor:
        """Where codes of the first ``books`` are drawn, ``[B, K, T]`` bool, in answers of ``frames`` ``[B]``."""
        first = torch.tensor(self.delays)[None, :, None]
        last = torch.as_tensor(frames)[:, None, None] + first
        place = torch.arange(steps)[None, None]
        drawn = (place >= first) & (place < last)
        drawn[:, len(self.delays) if books is None else books :] = False
        return drawn

    def delayed(self, answers: Sequence[Tensor], books: int | None = None) -> tuple[Tensor, Tensor]:
        """Lay answers out: tokens ``[B, K, T]`` with the special token in undrawn places, and :meth:`valid`.

        Args:
            answers: codes ``[F_i, K]`` of each answer.
            books: how many codebooks :meth:`valid` tells of.
        """
        frames = [len(codes) for codes in answers]
        steps = max(frames) + self.extra
        tokens = torch.full((len(answers), self.codebooks, steps), self.special, dtype=torch.long)
        for row, codes in enumerate(answers):
            for book, delay in enumerate(self.delays):
                tokens[row, book, delay : delay + len(codes)] = codes[:, book]
        return tokens, self.valid(frames, steps, books)

    def undelayed(self, tokens: Tensor) -> Tensor:
        """Codes ``[B, F, K]`` of tokens ``[B, K, F + extra]``: the inverse of :meth:`delayed` for equal lengths."""
        frames = tokens.shape[-1] - self.extra
        books = [tokens[:, book, delay : delay + frames] for book, delay in enumerate(self.delays)]
        return torch.stack(books, dim=-1)
