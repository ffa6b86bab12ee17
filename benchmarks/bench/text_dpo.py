"""DPO on a language model without images: mmalign against TRL 1.16."""

from __future__ import annotations

from functools import partial

from mmalign.bench.definition import Bench, Case
from mmalign.benchmarks.bench.dpo import VARIANTS, DPOSetting, comparisons
from mmalign.benchmarks.bench.models import NARROW, SMALL, WIDE, Shape, llama
from mmalign.benchmarks.bench.pairs import make_rows
from mmalign.benchmarks.bench.trl_peer import NEEDS_TRL

__all__ = ["BENCH"]

WITHOUT_TOWER = {name: text for name, text in VARIANTS.items() if name != "mmalign-cache_towers"}


def _case(name: str, shape: Shape, words: int, *, lora: bool = True, quick: bool = False) -> Case:
    tuned = "LoRA (rank 16)" if lora else "all weights"
    pairs = 2 if quick else 4
    setting = DPOSetting(
        modality="text",
        model=partial(llama, shape),
        rows=partial(make_rows, pairs, prompt_words=words, vocab=shape.vocab, image=False),
        lora=16 if lora else None,
    )
    text = f"{tuned}; {shape.text}; {pairs} pairs, prompt of {words} words, answers of 16 to 64 tokens"
    ratios = comparisons(False, memory=not quick, names=tuple(WITHOUT_TOWER))
    return Case(name, text, WITHOUT_TOWER, setting, ratios, rounds=5, quick=quick)


BENCH = Bench(
    name="text_dpo",
    title="DPO step (loss and gradient) on a Llama model: mmalign against TRL 1.16",
    cases=(
        _case("quick", SMALL, 100, quick=True),
        _case("lora-long", NARROW, 400),
        _case("lora-short", NARROW, 20),
        _case("full-long", NARROW, 400, lora=False),
        _case("lora-long-wide", WIDE, 400),
    ),
    headline=("lora-long", "trl+head / mmalign"),
    quick_headline=("quick", "trl+head / mmalign"),
    needs=NEEDS_TRL,
    notes=(
        "TRL's time is its loss and backward pass on a collated batch; mmalign's includes its collation",
        "for text TRL 1.16 has precompute_ref_log_probs itself: trl+head+cache is the fair peer of mmalign here",
    ),
)
