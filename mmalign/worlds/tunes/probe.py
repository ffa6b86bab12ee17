"""How well a model follows captions: what the judge hears in drawn pieces, against what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from mmalign.rng import generator, numpy_generator
from mmalign.worlds.tunes.captions import asked_of, phrase
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import Pool, to_ids
from mmalign.worlds.tunes.listener import Listener, attributes_heard
from mmalign.worlds.tunes.pretrain import draw
from mmalign.worlds.tunes.quality import Quality, damaged
from mmalign.worlds.tunes.towers import Towers
from mmalign.worlds.tunes.tune import ATTRIBUTES, tune_at

__all__ = ["adherence", "opinion_errors", "probe", "tell_apart"]


def adherence(heard: Sequence[dict[str, str]], asked: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Share of mentions that are heard as asked, per attribute and over all mentions."""
    hits: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for found, wanted in zip(heard, asked, strict=True):
        for name, value in wanted.items():
            hits[name].append(found[name] == value)
    every = [hit for part in hits.values() for hit in part]
    shares = {name: round(sum(part) / max(1, len(part)), 3) for name, part in hits.items()}
    return {**shares, "all": round(sum(every) / max(1, len(every)), 3), "mentions": len(every)}


def probe(
    model: MusicgenForConditionalGeneration,
    codec: BandCodec,
    judge: Listener,
    *,
    split: str = "validation",
    n: int = 200,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> tuple[dict[str, Any], Tensor]:
    """:func:`adherence` on ``n`` captions of a split, and the log bands that were drawn."""
    captions, asked = [], []
    for i in range(n):
        rng = numpy_generator(seed, "tunes", "probe", split, i)
        wanted = asked_of(tune_at(split, seed, i, "probe"), rng)
        asked.append(wanted)
        captions.append(phrase(wanted, rng))
    rng_draw = generator(seed, "tunes", "probe", "draw")
    parts = []
    for start in range(0, n, 100):
        ids, mask = to_ids(captions[start : start + 100])
        codes = draw(model, ids, mask, rng_draw, temperature=temperature, guidance=guidance)
        parts.append(codec.bands(codes))
    bands = torch.cat(parts)
    return adherence(attributes_heard(judge, bands), asked), bands


@torch.no_grad()
def tell_apart(model: Towers, held: Pool, codec: BandCodec, seed: int = 0) -> dict[str, float]:
    """Share of pieces for which a true caption beats one with this attribute changed, through the codec."""
    sounds = model.embed_sound(codec.bands(held.codes(codec).long()))
    wins: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for name, values in ATTRIBUTES.items():
        rng = numpy_generator(seed, "tunes", "tell", name)
        true, false = [], []
        for tune in held.tunes:
            asked = {**asked_of(tune, rng), name: tune.attributes[name]}
            others = [value for value in values if value != asked[name]]
            true.append(phrase(asked, rng))
            false.append(phrase({**asked, name: others[int(rng.integers(len(others)))]}, rng))
        right, wrong = (model.embed_text(*to_ids(captions)) for captions in (true, false))
        wins[name] = ((sounds * right).sum(1) > (sounds * wrong).sum(1)).tolist()
    return {name: round(sum(part) / len(part), 3) for name, part in wins.items()}


@torch.no_grad()
def opinion_errors(model: Quality, held: Pool, codec: BandCodec, seed: int) -> dict[str, float]:
    """Error, bias and rank correlation of the clipped score against fresh damage, and the means of clean pieces."""
    from scipy.stats import spearmanr

    codes = held.codes(codec).long()
    bands, severity = damaged(codes, codec, generator(seed, "tunes", "opinion"))
    score, label = model.score(bands), 5 - 4 * severity
    rendered = model.score(held.bands.float())
    found = {
        "pieces": len(held),
        "mae": float((score - label).abs().mean()),
        "bias": float((score - label).mean()),
        "spearman": float(spearmanr(score, label).statistic),
        "clean_through_codec": float(model.score(codec.bands(codes)).mean()),
        "clean_rendered": float(rendered.mean()),
    }
    return {name: round(value, 3) for name, value in found.items()}
