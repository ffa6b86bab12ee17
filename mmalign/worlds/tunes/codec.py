"""The codec: residual vector quantisation of log-band patches, fitted by k-means in seconds; a table decodes it.

*Reference:* Zeghidour et al., SoundStream (2021), arXiv:2107.03312, section III-C for residual quantisation.  Here each
codebook is fitted by k-means on the residual of the ones before it, on spectra instead of learned features, because
small neural codecs trained for minutes kept far less (see ``docs/worlds/tunes.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.rng import generator
from mmalign.worlds.tunes.bands import BANDS, HOP, log_bands_of, waveform
from mmalign.worlds.tunes.synth import RATE

__all__ = ["CODEBOOKS", "CODEC_FILE", "CODES", "PATCH", "STEPS", "BandCodec"]

PATCH, CODEBOOKS, CODES = 4, 6, 256
"""Band frames per code frame, codebooks, entries of each."""
STEPS = 25
"""Code frames of a piece: 12.5 per second."""
CODEC_FILE = "codec.safetensors"
"""Name of the codec's file in a model's folder."""


class BandCodec:
    """Codes of sound and back.

    Args:
        books: codebooks ``[K, C, PATCH * BANDS]`` of normalised patches.
        mean: what is subtracted from a band, ``[BANDS]``.
        scale: what bands are divided by (one number, so that distances keep their meaning).
    """

    sampling_rate = RATE
    frame_rate = RATE / (HOP * PATCH)

    def __init__(self, books: Tensor, mean: Tensor, scale: float) -> None:
        self.books, self.mean, self.scale = books, mean, scale

    @property
    def codebooks(self) -> int:
        """Number of codebooks ``K``."""
        return len(self.books)

    @classmethod
    def fit(
        cls,
        bands: Tensor,
        *,
        codebooks: int = CODEBOOKS,
        codes: int = CODES,
        iterations: int = 12,
        seed: int = 0,
    ) -> BandCodec:
        """Fit to log bands ``[B, F, BANDS]`` of training pieces."""
        mean, scale = bands.mean((0, 1)), float(bands.std())
        rest = _patches((bands - mean) / scale).flatten(0, 1)
        books = []
        for k in range(codebooks):
            book = _kmeans(rest, codes, iterations, generator(seed, "codec", k))
            books.append(book)
            rest = rest - book[_nearest(rest, book)]
        return cls(torch.stack(books), mean, scale)

    def encode_bands(self, bands: Tensor) -> Tensor:
        """Codes ``[B, K, T]`` of log bands ``[B, F, BANDS]``; frames beyond a whole patch are left out."""
        rest = _patches((bands - self.mean) / self.scale)
        codes = []
        for book in self.books:
            chosen = _nearest(rest.flatten(0, 1), book).view(rest.shape[:2])
            codes.append(chosen)
            rest = rest - book[chosen]
        return torch.stack(codes, dim=1)

    def encode_clips(self, clips: Sequence[Clip]) -> Tensor:
        """Codes ``[B, K, T]`` of clips of one length."""
        return self.encode_bands(log_bands_of(clips))

    def bands(self, codes: Tensor) -> Tensor:
        """Log bands ``[B, T * PATCH, BANDS]`` of codes ``[B, K, T]``: sums of table entries.

        Raises:
            ValueError: for a code outside its book, such as the special token of the delay pattern.
        """
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.books.shape[1]:
            raise ValueError(
                f"codes must be 0..{self.books.shape[1] - 1}, got {int(codes.min())}..{int(codes.max())}"
            )
        found = sum(self.books[k][codes[:, k]] for k in range(codes.shape[1]))
        assert isinstance(found, Tensor)
        return found.view(len(codes), -1, BANDS) * self.scale + self.mean

    def clips(self, codes: Tensor, steps: int = 12) -> list[Clip]:
        """Sounds of codes ``[B, K, T]``, by Griffin-Lim with ``steps`` iterations."""
        samples = waveform(self.bands(codes), steps).numpy()
        return [Clip(row.astype(np.float32), RATE) for row in samples]

    def encode(self, samples: np.ndarray[Any, Any]) -> Tensor:
        """Codes ``[T, K]`` of samples ``[n]``, frame first."""
        return self.encode_clips([Clip(np.asarray(samples, dtype=np.float32), RATE)])[0].T

    def decode(self, codes: Tensor) -> np.ndarray[Any, Any]:
        """Samples ``[n]`` of codes ``[T, K]``, frame first."""
        return self.clips(codes.T[None])[0].samples

    def save(self, folder: Path) -> Path:
        """Write ``codec.safetensors`` into ``folder``."""
        from safetensors.torch import save_file

        parts = {"books": self.books.contiguous(), "mean": self.mean, "scale": torch.tensor(self.scale)}
        save_file(parts, folder / CODEC_FILE, metadata={"format": "mmalign-band-codec"})
        (folder / CODEC_FILE).chmod(0o644)
        return folder / CODEC_FILE

    @classmethod
    def load(cls, folder: Path) -> BandCodec:
        """Read ``codec.safetensors`` of ``folder``.

        Raises:
            UserError: when it is missing or not one of these.
        """
        from safetensors.torch import load_file

        path = folder / CODEC_FILE
        if not path.is_file():
            raise UserError(f"{path}: no codec here")
        parts = load_file(path)
        if set(parts) != {"books", "mean", "scale"}:
            raise UserError(f"{path}: holds {', '.join(sorted(parts))}, expected books, mean, scale")
        return cls(parts["books"], parts["mean"], float(parts["scale"]))


def _patches(bands: Tensor) -> Tensor:
    """``[B, T, PATCH * BANDS]`` of ``[B, F, BANDS]``."""
    steps = bands.shape[1] // PATCH
    return bands[:, : steps * PATCH].reshape(len(bands), steps, PATCH * bands.shape[2])


def _nearest(points: Tensor, book: Tensor) -> Tensor:
    """Index of the nearest entry ``[N]``, in pieces that keep memory small."""
    half = (book**2).sum(1) / 2
    return torch.cat([(half - part @ book.T).argmin(1) for part in points.split(16_384)])


def _kmeans(points: Tensor, count: int, iterations: int, rng: torch.Generator) -> Tensor:
    """Centres ``[count, D]`` after Lloyd's iterations; an empty centre moves to a random point."""
    centres = points[torch.randperm(len(points), generator=rng)[:count]].clone()
    for _ in range(iterations):
        owner = _nearest(points, centres)
        sizes = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero()[:, 0]
        centres[empty] = points[torch.randint(len(points), (len(empty),), generator=rng)]
    return centres
