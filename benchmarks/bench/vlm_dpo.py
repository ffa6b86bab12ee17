"""DPO on a vision-language model: mmalign against TRL 1.16."""

from __future__ import annotations

from functools import partial

from mmalign.bench.definition import Bench, Case
from mmalign.benchmarks.bench.dpo import VARIANTS, DPOSetting, comparisons
from mmalign.benchmarks.bench.models import NARROW, SMALL, WIDE, Shape, llava
from mmalign.benchmarks.bench.pairs import make_rows
from mmalign.benchmarks.bench.trl_peer import NEEDS_TRL

__all__ = ["BENCH"]

TOWER = ("*vision_tower*",)


def _case(
    name: str, shape: Shape, tokens: int, pairs: int, *, lora: bool, bars: bool = False, quick: bool = False
) -> Case:
    tuned = "LoRA (rank 16) on the language model" if lora else "all weights but the frozen tower"
    setting = DPOSetting(
        modality="vision",
        model=partial(llava, shape, tokens),
        rows=partial(make_rows, pairs, prompt_words=30, vocab=shape.vocab, image=True),
        lora=16 if lora else None,
        frozen=() if lora else TOWER,
    )
    text = (
        f"{tuned}; {shape.text}, CLIP {shape.tower_hidden} x {shape.tower_layers}; {pairs} pairs, "
        f"{tokens} image tokens, prompt of 30 words, answers of 16 to 64 tokens"
    )
    return Case(name, text, VARIANTS, setting, comparisons(bars, memory=not quick), rounds=5, quick=quick)


BENCH = Bench(
    name="vlm_dpo",
    title="DPO step (loss and gradient) on a LLaVA model: mmalign against TRL 1.16",
    cases=(
        _case("quick", SMALL, 144, 2, lora=True, quick=True),
        _case("lora-144", NARROW, 144, 4, lora=True, bars=True),
        _case("lora-576", NARROW, 576, 2, lora=True, bars=True),
        _case("full-144", NARROW, 144, 4, lora=False),
        _case("full-576", NARROW, 576, 2, lora=False),
        _case("lora-144-wide", WIDE, 144, 4, lora=True),
    ),
    headline=("lora-144", "trl+head / mmalign"),
    quick_headline=("quick", "trl+head / mmalign"),
    needs=NEEDS_TRL,
    notes=(
        "TRL's time is its loss and backward pass on a collated batch; mmalign's includes its collation",
        "TRL 1.16 refuses precompute_ref_log_probs for images; trl+head+cache hands it the numbers all the same",
        "cached means: after the first epoch; once_cpu_s and first_run_cpu_s in bench.json hold what that costs once",
    ),
)
