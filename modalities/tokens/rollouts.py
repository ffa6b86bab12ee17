"""Raw token draws to a rollout: decoded answers, their segments and padded log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mmalign.modalities.tokens.encoding import RowEncoder
from mmalign.modalities.tokens.prompts import answer_text
from mmalign.modalities.tokens.sampling import Draw
from mmalign.modalities.tokens.segments import Granularity, char_ends, segment
from mmalign.types import Rollout, Row

__all__ = ["assemble", "segmented"]


def assemble(
    rows: Sequence[Row], n: int, draws: Sequence[Draw], tokenizer: Any, granularity: Granularity
) -> Rollout:
    """Join the draws of all chunks; answers are row-major (the ``n`` of row 0 first).

    Every answer keeps its token ids as ``steps`` (with the end token when finished) and gets its text
    and segments from those ids.
    """
    total, width = len(rows) * n, max(int(draw.lengths.max()) for draw in draws)
    logp, mask = torch.zeros((total, width)), torch.zeros((total, width), dtype=torch.bool)
    answered: list[Row] = []
    for draw in draws:
        for tokens, values, length in zip(draw.tokens, draw.logp, draw.lengths.tolist(), strict=True):
            index = len(answered)
            logp[index, :length], mask[index, :length] = values[:length], True
            steps = tokens[:length].tolist()
            text, ends = char_ends(tokenizer, steps)
            cuts = segment(text, ends, granularity)
            answered.append(replace(rows[index // n], completion=text, steps=steps, segments=cuts))
    group = torch.arange(len(rows)).repeat_interleave(n)
    return Rollout(tuple(answered), logp, mask, torch.cat([draw.finished for draw in draws]), group)


def segmented(row: Row, encoder: RowEncoder, granularity: Granularity) -> Row:
    """A row with an answer, given its text, steps and segments."""
    if row.steps is not None:
        steps = encoder.answer(row)
        text, ends = char_ends(encoder.tokenizer, steps)
    else:
        steps, ends = encoder.answer_offsets(row)
        text = answer_text(row)
    return replace(row, completion=text, steps=steps, segments=segment(text, ends, granularity))
