"""Pieces in bulk, as the nets of this world train on them: log bands or codes, with their attributes as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmalign.rng import numpy_generator
from mmalign.worlds.tunes.bands import log_bands_of
from mmalign.worlds.tunes.captions import MAX_WORDS, CaptionNoise, asked_of, phrase
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.model import word_ids
from mmalign.worlds.tunes.synth import render
from mmalign.worlds.tunes.tune import ATTRIBUTES, Tune, tune_at

__all__ = ["Pool", "batch_places", "caption_ids", "labels_of", "make_pool", "to_ids"]

_IDS = word_ids()


@dataclass(frozen=True, slots=True)
class Pool:
    """Pieces with what is heard of them: log bands ``[N, F, BANDS]`` in half precision."""

    tunes: tuple[Tune, ...]
    bands: Tensor

    def __len__(self) -> int:
        return len(self.tunes)

    def codes(self, codec: BandCodec) -> Tensor:
        """Codes ``[N, K, T]``, as bytes."""
        parts = [codec.encode_bands(part.float()) for part in self.bands.split(256)]
        return torch.cat(parts).to(torch.uint8)


def make_pool(split: str, n: int, seed: int, stream: str, first: int = 0) -> Pool:
    """``n`` pieces of a stream from ``first`` on, rendered; each part of this world trains on a stream of its own."""
    tunes, heard = [], []
    for start in range(first, first + n, 100):
        part = [tune_at(split, seed, i, stream) for i in range(start, min(first + n, start + 100))]
        tunes += part
        heard.append(log_bands_of([render(tune) for tune in part]).half())
    return Pool(tuple(tunes), torch.cat(heard))


def labels_of(tunes: tuple[Tune, ...] | list[Tune]) -> Tensor:
    """Place of each attribute's value, ``[N, 6]``."""
    found = [[values.index(getattr(tune, name)) for name, values in ATTRIBUTES.items()] for tune in tunes]
    return torch.tensor(found)


def to_ids(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[B, MAX_WORDS + 1]``, as the tokenizer makes them."""
    ids = torch.full((len(captions), MAX_WORDS + 1), _IDS["<pad>"])
    for row, caption in enumerate(captions):
        words = [_IDS[word] for word in caption.split()] + [_IDS["</s>"]]
        ids[row, : len(words)] = torch.tensor(words)
    longest = int((ids != _IDS["<pad>"]).sum(1).max())
    return ids[:, :longest], (ids[:, :longest] != _IDS["<pad>"]).long()


def caption_ids(tunes: list[Tune], noise: CaptionNoise | None, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Fresh captions of a batch as :func:`to_ids`; the same for the same seed and step."""
    rng = numpy_generator(seed, "tunes", "captions", step)
    return to_ids([phrase(asked_of(tune, rng, noise), rng) for tune in tunes])


def batch_places(count: int, size: int, seed: int, step: int, name: str) -> Tensor:
    """Which pieces stand in the batch of a step, ``[size]``."""
    rng: np.random.Generator = numpy_generator(seed, "tunes", name, step)
    return torch.from_numpy(rng.integers(count, size=size))
