"""Preference pairs and prompts with random words and pictures, as rows of ours and as TRL's columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from mmalign.data.pairs import Pair, pairs_from_rows
from mmalign.types import Row

__all__ = ["as_pairs", "as_trl", "make_rows"]


def make_rows(
    count: int,
    *,
    prompt_words: int,
    vocab: int,
    image: bool,
    answers: tuple[int, int] = (16, 64),
    seed: int = 0,
) -> list[Row]:
    """Rows with a prompt and two answers whose lengths are log-uniform within ``answers`` (words).

    Args:
        prompt_words: words of the prompt beside the picture.
        vocab: the tokenizer's size.
        image: whether every row has a picture of 400 x 300.
    """
    rng = np.random.default_rng(seed)

    def words(n: int) -> str:
        return " ".join(f"w{k}" for k in rng.integers(0, vocab - 8, n))

    def length() -> int:
        low, high = (math.log(bound) for bound in answers)
        return round(math.exp(rng.uniform(low, high)))

    rows = []
    for at in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
        rows.append(
            Row(
                id=f"row{at}",
                prompt=[{"role": "user", "content": words(prompt_words)}],
                media=(picture,) if image else (),
                chosen=words(length()),
                rejected=words(length()),
            )
        )
    return rows


def as_pairs(rows: list[Row]) -> list[Pair]:
    """The rows as pairs of ours."""
    return pairs_from_rows(rows)


def as_trl(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as TRL's conversational preference columns."""
    examples: list[dict[str, Any]] = []
    for row in rows:
        example = {
            "prompt": row.prompt,
            "chosen": [{"role": "assistant", "content": row.chosen}],
            "rejected": [{"role": "assistant", "content": row.rejected}],
        }
        examples.append({**example, "images": list(row.media)} if row.media else example)
    return examples
