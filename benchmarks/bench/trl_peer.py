"""TRL's own trainers as the other side of a comparison, configured kindly: float32, no gradient checkpointing,
no truncation, no dropout.  Nothing of their code is changed but one switch (:func:`completion_head`)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor

from mmalign.bench.definition import Step
from mmalign.benchmarks.bench.gradients import flat_gradient

__all__ = ["NEEDS_TRL", "completion_head", "dpo_trainer", "grpo_trainer", "settings", "trl_dpo_step"]

NEEDS_TRL = {"trl": "pip install 'trl==1.16.*'"}


@contextmanager
def completion_head(enabled: bool) -> Iterator[None]:
    """Let TRL's language-model head skip prompt and image positions on CPU too.

    TRL 1.16 does so only where Triton runs (``compact = _use_triton(device)``); elsewhere it scores every position.
    """
    if not enabled:
        yield
        return
    with mock.patch("trl.trainer.utils._use_triton", lambda device: True):
        yield


def settings(folder: str, batch_size: int) -> dict[str, Any]:
    """Arguments that every trainer gets."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": batch_size,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def dpo_trainer(
    model: Any,
    reference: Any,
    processing: Any,
    examples: Sequence[dict[str, Any]],
    lora: Any,
) -> Any:
    """A ``DPOTrainer`` that never trains: its collator and its ``compute_loss`` are used.

    Args:
        reference: ``None`` with LoRA (TRL switches the adapter off).
        examples: all rows of the one batch.
        lora: the PEFT configuration, or ``None``.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = DPOTrainer(
            model=model,
            ref_model=reference,
            args=DPOConfig(**settings(folder, len(examples)), max_length=None, beta=0.1),
            processing_class=processing,
            train_dataset=Dataset.from_list([dict(example) for example in examples]),
            peft_config=lora,
        )
    trainer.model.train()
    return trainer


def grpo_trainer(
    model: Any,
    processing: Any,
    examples: Sequence[dict[str, Any]],
    lora: Any,
    reward: Any,
    *,
    samples: int,
    length: int,
    beta: float,
) -> Any:
    """A ``GRPOTrainer`` whose ``training_step`` is used: it samples, scores, and forms the gradient.

    Args:
        reward: TRL's reward function, ``(completions, completion_ids, ...) -> list of numbers``.
        samples: answers per prompt, and per step.
        length: tokens per answer.
        beta: weight of the KL in the loss.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                **settings(folder, samples), num_generations=samples, max_completion_length=length, beta=beta
            ),
            processing_class=processing,
            train_dataset=Dataset.from_list([dict(example) for example in examples]),
            peft_config=lora,
        )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_dpo_step(trainer: Any, *, head: bool, cached: bool = False) -> Step:
    """TRL's loss and backward pass on its own batch, the whole training set of ``trainer``.

    Args:
        head: with :func:`completion_head`.
        cached: hand it the reference's log-probabilities, as ``precompute_ref_log_probs`` does for text (for
            images TRL 1.16 refuses that setting).
    """
    state: dict[str, Tensor] = {}
    began = time.process_time()
    extra = _reference(trainer, head) if cached else {}
    once = time.process_time() - began

    def run(batch: Mapping[str, Any]) -> None:
        trainer.model.zero_grad(set_to_none=True)
        trainer.precompute_ref_logps = cached
        with completion_head(head):
            loss = trainer.compute_loss(trainer.model, {**batch, **extra})
            loss.backward()
        state["loss"] = loss.detach()

    return Step(
        run,
        outcome=lambda: {**state, "gradient": flat_gradient(trainer.model)},
        prepare=lambda: _batch(trainer),
        once_s=once,
    )


def _batch(trainer: Any) -> Any:
    examples = [trainer.train_dataset[at] for at in range(len(trainer.train_dataset))]
    return trainer._prepare_inputs(dict(trainer.data_collator(examples)))


def _reference(trainer: Any, head: bool) -> dict[str, Tensor]:
    model = trainer.model if trainer.ref_model is None else trainer.ref_model
    with completion_head(head):
        chosen, rejected = trainer.compute_ref_log_probs(model, _batch(trainer))
    return {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
