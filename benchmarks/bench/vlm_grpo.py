"""A GRPO step on a vision-language model, sampling included: mmalign against TRL 1.16."""

from __future__ import annotations

from functools import partial

from mmalign.bench.definition import Bench, Case, Comparison
from mmalign.benchmarks.bench.grpo import VARIANTS, GRPOSetting
from mmalign.benchmarks.bench.models import NARROW, SMALL, WIDE, Shape, llava
from mmalign.benchmarks.bench.pairs import make_rows
from mmalign.benchmarks.bench.trl_peer import NEEDS_TRL

__all__ = ["BENCH"]


def _comparisons(bar: float | None, memory: bool) -> tuple[Comparison, ...]:
    bases = [name for name in VARIANTS if name != "mmalign"]
    found = [Comparison(base, "mmalign", bar if base == "trl" else None) for base in bases]
    found += [Comparison("trl+head", "mmalign-plain")]
    return (*found, *([Comparison("trl", "mmalign", memory=True)] if memory else []))


def _case(
    name: str, shape: Shape, tokens: int, *, length: int = 64, bar: float | None = None, quick: bool = False
) -> Case:
    setting = GRPOSetting(
        model=partial(llava, shape, tokens, endless=True),
        rows=partial(make_rows, 1, prompt_words=30, vocab=shape.vocab, image=True),
        length=length,
    )
    text = (
        f"LoRA (rank 16); {shape.text}, CLIP {shape.tower_hidden} x {shape.tower_layers}; 1 prompt of {tokens} image "
        f"tokens and 30 words, 8 samples of {length} tokens, beta 0.04"
    )
    ratios = _comparisons(bar, not quick)
    return Case(name, text, VARIANTS, setting, ratios, rounds=3 if quick else 5, quick=quick)


BENCH = Bench(
    name="vlm_grpo",
    title="GRPO step (sample, reward, reference, loss, gradient) on a LLaVA model: mmalign against TRL 1.16",
    cases=(
        _case("quick", SMALL, 144, length=24, quick=True),
        _case("lora-144", NARROW, 144, bar=4.0),
        _case("lora-576", NARROW, 576),
        _case("lora-144-wide", WIDE, 144),
    ),
    headline=("lora-144", "trl / mmalign"),
    quick_headline=("quick", "trl / mmalign"),
    needs=NEEDS_TRL,
    notes=(
        "equality of loss, gradient and reference log-probabilities is checked on TRL's own samples",
        "mmalign's step includes clipping and the AdamW update, TRL's ends with the gradient",
        "both sample 8 answers of full length: the end token has probability zero in both",
    ),
)
