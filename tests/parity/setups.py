"""Tiny models on which TRL's real trainers and ours see the same rows: text and image, LoRA and full, three endings."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn

from mmalign import registry
from mmalign.benchmarks.bench.gradients import flat_gradient, move_away
from mmalign.benchmarks.bench.models import TEMPLATE, Shape, llama, llava
from mmalign.data.pairs import Pair
from mmalign.engine.reference import Reference
from mmalign.types import Row, Speed

TOLERANCE = 1e-5
TINY = Shape(32, 2, 2, 96, 32, 2)
LORA = 4
OFF = Speed(share_prefix=False, pack=False, cache_towers=False, compact_head=False, merge_lora=False)

PROMPTS = ["w3 w4", "w5", "w6 w7 w8 w9", "w3 w10 w11"]
CHOSEN = ["w5 w6 w7 w8", "w10", "w14 w15", "w4 w4 w4 w5 w6 w9"]
REJECTED = ["w9", "w11 w12 w13", "w16 w17", "w6 w8 w20 w21 w22"]


@dataclass(frozen=True)
class Setup:
    """What is trained and how its answers end.

    ``ending``: ``pad`` (an end token, pad is another), ``pad_is_eos``, or ``bare`` (no end token at all, pad is eos, so
    that answers of one word are answers of one token).
    """

    modality: str
    lora: bool
    ending: str

    @property
    def name(self) -> str:
        return f"{self.modality}-{'lora' if self.lora else 'full'}-{self.ending}"

    def model(self) -> tuple[Any, Any]:
        """Base model and processor, the same weights on every call; weights large enough to matter."""
        pad = "<pad>" if self.ending == "pad" else "</s>"
        make = (
            partial(llava, TINY, 9, pad=pad) if self.modality == "vision" else partial(llama, TINY, pad=pad)
        )
        model, processing = make()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "embeddings" not in name:
                    parameter.mul_(3.0)
        if self.ending == "bare":
            processing.chat_template = TEMPLATE.replace("{{ eos_token }}", "")
        return model, processing

    def policy(self) -> tuple[nn.Module, Any]:
        """The policy at the reference's weights, and its processor."""
        model, processing = self.model()
        if self.lora:
            model = self.adapter(model, processing).attach_lora(
                model, r=LORA, alpha=LORA, target_modules="all-linear", seed=0
            )
        return model, processing

    def adapter(self, model: nn.Module, processing: Any, side: str = "right", speed: Speed = OFF) -> Any:
        adapter = registry.load("modalities", self.modality)(padding_side=side, speed=speed)
        adapter.adopt(model, processing)
        return adapter

    def ours(self) -> Ours:
        """Our policy, moved away from its reference."""
        model, processing = self.policy()
        start = copy.deepcopy(model)
        move_away(model, scale=0.1)
        return Ours(self, model, start, processing)

    def peft(self) -> Any:
        return copy.deepcopy(self.policy()[0].peft_config["default"]) if self.lora else None

    def rows(self, count: int = 4) -> list[Row]:
        rows = []
        for at in range(count):
            rng = np.random.default_rng(at)
            picture = Image.fromarray(rng.integers(0, 256, (48, 60, 3), dtype=np.uint8))
            rows.append(
                Row(
                    id=f"r{at}",
                    prompt=[{"role": "user", "content": PROMPTS[at % 4] + f" w{at + 30}"}],
                    media=(picture,) if self.modality == "vision" else (),
                    chosen=CHOSEN[at % 4],
                    rejected=REJECTED[(at + at // 4) % 4],
                )
            )
        return rows

    def answer(self, row: Row, side: str, processing: Any) -> Row:
        """One answer as a row; without an end token its tokens are given as recorded steps."""
        text = getattr(row, side)
        tokenizer = getattr(processing, "tokenizer", processing)
        steps = tokenizer(text, add_special_tokens=False)["input_ids"] if self.ending == "bare" else None
        return replace(row, id=f"{row.id}:{side}", completion=text, steps=steps, chosen=None, rejected=None)

    def pairs(self, processing: Any, count: int = 4) -> list[Pair]:
        both = ("chosen", "rejected")
        return [Pair(*(self.answer(row, side, processing) for side in both)) for row in self.rows(count)]

    def dataset(self, *columns: str, count: int = 4) -> Dataset:
        """TRL's conversational columns; an answer column holds one assistant turn."""
        found = []
        for row in self.rows(count):
            example: dict[str, Any] = {"prompt": row.prompt}
            example |= {name: [{"role": "assistant", "content": getattr(row, name)}] for name in columns}
            found.append({**example, "images": list(row.media)} if row.media else example)
        return Dataset.from_list(found)


@dataclass
class Ours:
    """Our side: the policy, a frozen copy of it at the reference, and the processor."""

    setup: Setup
    model: nn.Module
    start: nn.Module
    processing: Any

    def variants(self, *, plain: bool = True) -> list[tuple[str, Any, Reference]]:
        """Padded right (with ``plain``) and left without any switch, and every switch on: name, adapter, reference."""
        found = []
        ways = [("left", "left", OFF), ("fast", "right", Speed())]
        for name, side, speed in [("right", "right", OFF), *ways] if plain else ways:
            adapter = self.setup.adapter(self.model, self.processing, side, speed)
            found.append((name, adapter, self.reference(adapter)))
        return found

    def reference(self, adapter: Any) -> Reference:
        return Reference(adapter, self.model if self.setup.lora else self.start)

    def gradient(self, loss: Tensor) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        return flat_gradient(self.model)


SETUPS = [
    Setup(modality, lora, ending)
    for modality in ("text", "vision")
    for lora in (True, False)
    for ending in ("pad", "pad_is_eos", "bare")
]


FEW = [
    Setup("text", True, "pad_is_eos"),
    Setup("text", False, "bare"),
    Setup("vision", True, "bare"),
    Setup("vision", True, "pad"),
    Setup("vision", False, "pad_is_eos"),
]
"""Each modality, tuning and ending at least once."""


def kind(folder: Path, batch: int) -> dict[str, Any]:
    """Arguments of a kindly configured trainer."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def trl_models(setup: Setup) -> tuple[Any, Any, Any, Any]:
    """What a TRL trainer gets: policy, reference (``None`` with LoRA), processor, PEFT configuration."""
    model, processing = setup.model()
    return model, None if setup.lora else setup.model()[0], processing, setup.peft()


def ready_batch(trainer: Any) -> dict[str, Any]:
    """The whole training set as one collated batch, in order."""
    examples = [trainer.train_dataset[at] for at in range(len(trainer.train_dataset))]
    return trainer._prepare_inputs(dict(trainer.data_collator(examples)))


def their_gradient(trainer: Any, loss: Tensor) -> Tensor:
    trainer.model.zero_grad(set_to_none=True)
    loss.backward()
    return flat_gradient(trainer.model)


def close(value: Tensor, expected: Tensor, what: str, floor: float = 0.0) -> None:
    """Relative difference (L2) of at most 1e-5, of something that is not zero.

    ``floor``: the size it is relative to at least, for sums of terms of that size that cancel.
    """
    size = max(expected.double().norm().item(), floor)
    assert size > 1e-6, f"{what}: {size} would prove nothing"
    gap = (value.double() - expected.double()).norm().item() / size
    assert gap <= TOLERANCE, f"{what}: relative difference {gap:.2g}"
