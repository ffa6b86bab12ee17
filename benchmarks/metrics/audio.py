"""Distances between sets of sounds, and scores of sounds against captions; embedders are always given from outside.

Published numbers come with their embedder, sample size and reference set, or they mean nothing: a Frechet distance
falls with the number of samples on either side, so two of them compare only at equal ``n``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Extrapolation",
    "clap_score",
    "class_divergence",
    "diversity",
    "frechet_audio_distance",
    "frechet_audio_distance_inf",
    "frechet_distance",
]

_Array = NDArray[np.float64]


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of ``S_a^(1/2) S_b S_a^(1/2)``, which is symmetric:
    no complex residue, and singular covariances are no trouble.

    *Reference:* Dowson and Landau (1982); Kilgour et al., Frechet Audio Distance (2019), arXiv:1812.08466.

    Args:
        mean_a: ``[D]``.
        cov_a: ``[D, D]``.
        mean_b: ``[D]``.
        cov_b: ``[D, D]``.

    Raises:
        ValueError: when the shapes do not belong together.
    """
    ma, sa, mb, sb = (np.asarray(x, dtype=np.float64) for x in (mean_a, cov_a, mean_b, cov_b))
    if ma.ndim != 1 or ma.shape != mb.shape or sa.shape != (ma.size, ma.size) or sb.shape != sa.shape:
        raise ValueError(f"shapes {ma.shape}, {sa.shape} and {mb.shape}, {sb.shape} do not belong together")
    values, vectors = np.linalg.eigh(sa)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = root @ sb @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    return max(0.0, float(((ma - mb) ** 2).sum() + np.trace(sa) + np.trace(sb) - 2 * cross))


def frechet_audio_distance(reference: ArrayLike, generated: ArrayLike) -> float:
    """:func:`frechet_distance` of the Gaussians fitted to embeddings ``[N, D]`` and ``[M, D]`` (unbiased covariance).

    Raises:
        ValueError: when a side has fewer than two rows, or the widths differ.
    """
    a, b = _table(reference), _table(generated)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings of {a.shape[1]} and {b.shape[1]} numbers")
    return frechet_distance(a.mean(0), _cov(a), b.mean(0), _cov(b))


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A Frechet distance at infinite sample size, and the ``R^2`` of the line it was read from."""

    value: float
    r2: float


def frechet_audio_distance_inf(
    reference: ArrayLike, generated: ArrayLike, *, smallest: int = 500, points: int = 25, seed: int = 0
) -> Extrapolation:
    """The intercept of FAD over ``1 / n``, from ``points`` sizes between ``smallest`` and all of ``generated``.

    *Reference:* Gui et al., Adapting Frechet Audio Distance for Generative Music Evaluation (2023), arXiv:2311.01616,
    after Chong and Forsyth (2020), arXiv:1911.07023.  *Differs from paper:* none; each size is a sample with
    replacement of ``generated``, as in fadtk.

    Raises:
        ValueError: when ``generated`` has no more than ``smallest`` rows or ``smallest`` is below 2.
    """
    a, b = _table(reference), _table(generated)
    if not 2 <= smallest < len(b):
        raise ValueError(f"smallest is {smallest}, but there are {len(b)} generated embeddings")
    rng = np.random.default_rng(seed)
    sizes = np.linspace(smallest, len(b), points).astype(int)
    found = [frechet_audio_distance(a, b[rng.integers(len(b), size=n)]) for n in sizes]
    x, y = 1 / sizes, np.asarray(found)
    slope, intercept = np.polyfit(x, y, 1)
    left = ((y - slope * x - intercept) ** 2).sum()
    spread = ((y - y.mean()) ** 2).sum()
    return Extrapolation(float(intercept), float(1 - left / spread) if spread > 0 else 1.0)


def diversity(embeddings: ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """Mean distance between two embeddings of one group, averaged over groups; nothing where no group has two.

    Args:
        embeddings: ``[N, D]``.
        groups: what belongs together (answers to one caption), ``[N]``.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    means = []
    for members in places.values():
        if len(members) > 1:
            part = x[members]
            gaps = np.linalg.norm(part[:, None] - part[None], axis=-1)
            means.append(gaps.sum() / (len(members) * (len(members) - 1)))
    return float(np.mean(means)) if means else None


def clap_score(
    embed_text: Callable[[Sequence[str]], Any],
    embed_sound: Callable[[Sequence[Any]], Any],
    captions: Sequence[str],
    sounds: Sequence[Any],
) -> list[float]:
    """Cosine of each caption and its sound, ``[N]``, under a dual encoder; negative values are kept.

    Args:
        embed_text: captions to ``[N, D]``.
        embed_sound: sounds to ``[N, D]``; the caller sees to the sampling rate that it wants.
        captions: one per sound.
        sounds: what was generated.

    Raises:
        ValueError: when there is not one caption per sound.
    """
    if len(captions) != len(sounds):
        raise ValueError(f"{len(captions)} captions but {len(sounds)} sounds")
    text, sound = _table(embed_text(captions), least=1), _table(embed_sound(sounds), least=1)
    cosines = (text * sound).sum(1) / np.linalg.norm(text, axis=1) / np.linalg.norm(sound, axis=1)
    return [float(c) for c in cosines]


def class_divergence(reference: ArrayLike, generated: ArrayLike) -> tuple[float, float]:
    """Mean ``KL(reference || generated)`` and mean ``KL(generated || reference)`` in nats, of class probabilities.

    audiocraft's KLD has a PaSST classifier's probabilities, averaged over the segments of a sound; any classifier fits.

    Args:
        reference: ``[N, C]`` probabilities of real sounds, rows summing to 1.
        generated: ``[N, C]`` those of the sounds generated for the same captions.

    Raises:
        ValueError: when the shapes differ or a row is no distribution.
    """
    p, q = _table(reference, least=1), _table(generated, least=1)
    if p.shape != q.shape:
        raise ValueError(f"shapes {p.shape} and {q.shape} differ")
    for side in (p, q):
        if (side < 0).any() or np.abs(side.sum(1) - 1).max() > 1e-4:
            raise ValueError("every row must be a distribution")
    tiny = 1e-12
    log_p, log_q = np.log(np.clip(p, tiny, None)), np.log(np.clip(q, tiny, None))
    return float((p * (log_p - log_q)).sum(1).mean()), float((q * (log_q - log_p)).sum(1).mean())


def _table(values: ArrayLike, least: int = 2) -> _Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or len(x) < least:
        raise ValueError(f"expected [N, D] with at least {least} rows, got {list(x.shape)}")
    return x


def _cov(x: _Array) -> _Array:
    return np.atleast_2d(np.cov(x, rowvar=False))
