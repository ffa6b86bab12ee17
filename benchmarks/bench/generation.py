"""Sampling: mmalign's loop against ``transformers.generate`` on equal weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.bench.definition import Bench, Case, Comparison, Step
from mmalign.benchmarks.bench.models import NARROW, SMALL, WIDE, Shape, llama, llava
from mmalign.benchmarks.bench.pairs import make_rows
from mmalign.types import Row

__all__ = ["BENCH", "GenerationSetting"]

VARIANTS: Mapping[str, str] = {
    "hf-greedy": "transformers generate, greedy, one row per answer",
    "mmalign-greedy": "mmalign, greedy, log-probabilities included",
}
SAMPLED: Mapping[str, str] = {
    "hf-sample": "transformers generate, sampled at temperature 1, one row per answer",
    "mmalign-sample": "mmalign, sampled at temperature 1, log-probabilities included",
}


@dataclass(frozen=True)
class GenerationSetting:
    """A model and prompts; calling it builds the named variants.

    Equality is checked on greedy answers, also for the sampling variants: what one draws depends on one's own noise.

    Args:
        modality: the adapter's registered name.
        model: makes model and processor; it must never end an answer by itself.
        rows: makes the prompts.
        n: answers per prompt.
        length: tokens per answer.
    """

    modality: str
    model: Callable[[], tuple[Any, Any]]
    rows: Callable[[], list[Row]]
    n: int
    length: int

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name."""
        model, processing = self.model()
        adapter = registry.load("modalities", self.modality)()
        adapter.adopt(model, processing)
        rows = [replace(row, chosen=None, rejected=None) for row in self.rows()]
        makers = {"hf": partial(self._hf, model, processing), "mmalign": partial(self._ours, model, adapter)}
        return {name: makers[name.split("-")[0]](rows, greedy=name.endswith("greedy")) for name in names}

    def _hf(self, model: Any, processing: Any, rows: Sequence[Row], *, greedy: bool) -> Step:
        texts = [
            processing.apply_chat_template(_with_image(row), add_generation_prompt=True, tokenize=False)
            for row in rows
        ]
        images = [row.media[0] for row in rows if row.media]
        given = {"images": images} if images else {}
        inputs = processing(
            text=texts,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
            **given,
        )
        inputs = {name: value.repeat_interleave(self.n, 0) for name, value in inputs.items()}
        state: dict[str, Tensor] = {}

        def answers(sample: bool) -> Tensor:
            with torch.no_grad():
                kind: dict[str, Any] = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
                out = model.generate(**inputs, **kind, max_new_tokens=self.length)
            return out[:, inputs["input_ids"].shape[1] :]

        def run(_: Any) -> None:
            state["tokens"] = answers(not greedy)

        return Step(run, lambda: state if greedy else {"tokens": answers(False)})

    def _ours(self, model: Any, adapter: Any, rows: Sequence[Row], *, greedy: bool) -> Step:
        state: dict[str, Tensor] = {}

        def answers(temperature: float) -> Tensor:
            rng = torch.Generator().manual_seed(0)
            rollout = adapter.sample(model, rows, self.n, rng, temperature=temperature, max_steps=self.length)
            return torch.tensor([row.steps for row in rollout.rows])

        def run(_: Any) -> None:
            state["tokens"] = answers(0.0 if greedy else 1.0)

        return Step(run, lambda: state if greedy else {"tokens": answers(0.0)})


def _with_image(row: Row) -> list[dict[str, Any]]:
    if not row.media:
        return list(row.prompt)
    first, *rest = row.prompt
    return [{**first, "content": [{"type": "image"}, {"type": "text", "text": first["content"]}]}, *rest]


def _case(
    name: str, shape: Shape, *, n: int, image: int = 0, words: int = 30, length: int = 64, quick: bool = False
) -> Case:
    model: Callable[[], tuple[Any, Any]] = (
        partial(llava, shape, image, endless=True) if image else partial(llama, shape, endless=True)
    )
    setting = GenerationSetting(
        modality="vision" if image else "text",
        model=model,
        rows=partial(make_rows, 1, prompt_words=words, vocab=shape.vocab, image=bool(image)),
        n=n,
        length=length,
    )
    variants = {**VARIANTS, **SAMPLED}
    ratios = (Comparison("hf-greedy", "mmalign-greedy"), Comparison("hf-sample", "mmalign-sample"))
    picture = f"{image} image tokens and " if image else ""
    text = f"{shape.text}; 1 prompt of {picture}{words} words, {n} answer(s) of {length} tokens"
    return Case(name, text, variants, setting, ratios, rounds=5, quick=quick)


BENCH = Bench(
    name="generation",
    title="Sampling answers: mmalign against transformers generate",
    cases=(
        _case("quick", SMALL, n=8, image=144, length=24, quick=True),
        _case("image-n8", NARROW, n=8, image=144),
        _case("image-n8-576", NARROW, n=8, image=576),
        _case("text-n1", NARROW, n=1),
        _case("text-n8-long", NARROW, n=8, words=400),
        _case("image-n8-wide", WIDE, n=8, image=144),
    ),
    headline=("image-n8", "hf-sample / mmalign-sample"),
    quick_headline=("quick", "hf-sample / mmalign-sample"),
    needs={"transformers": "pip install 'transformers>=5'"},
    notes=(
        "answers are of full length: the end token has probability zero in both",
        "greedy tokens are equal; generate gives no log-probabilities here, mmalign does",
    ),
)
