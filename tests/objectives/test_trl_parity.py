"""Parity with TRL 1.16: its own ``_compute_loss`` methods run on our tensors, losses and gradients compared.

TRL is a development dependency and an oracle only.  Each method is called on a stand-in trainer that holds
just the attributes the method reads, and whose forward returns the tensors of the test.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from mmalign.objectives.policy import grpo_loss, rloo_loss

TOLERANCE = 1e-5
BATCH, STEPS, LIMIT = 6, 9, 16


class LoneProcess:
    """The parts of ``Accelerator`` that the loss methods use, for one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, x: Tensor) -> Tensor:
        return x

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x


def draw(seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Ratios well outside the clip range, ragged lengths, and a leaf ``logp``."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, BATCH, STEPS, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, STEPS + 1, (BATCH, 1), generator=generator)
    old = -noise[0].abs() - 0.2
    return {
        "logp": (old + 0.3 * noise[1]).to(dtype).requires_grad_(),
        "old": old.to(dtype),
        "ref": (old + 0.5 * noise[2]).to(dtype),
        "entropy": noise[3].abs().to(dtype),
        "advantages": torch.randn(BATCH, generator=generator, dtype=torch.float64).to(dtype),
        "mask": torch.arange(STEPS) < lengths,
    }


def stand_in(d: dict[str, Tensor], settings: dict[str, object]) -> SimpleNamespace:
    trainer = SimpleNamespace(
        accelerator=LoneProcess(),
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_args, **_kwargs: (d["logp"], d["entropy"], None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        _entropy_bonus_enabled=False,
        epsilon_low=0.2,
        epsilon_high=0.28,
    )
    for key, value in settings.items():
        setattr(trainer, key, value)
    return trainer


def trl_inputs(d: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = torch.zeros(BATCH, STEPS, dtype=torch.long)
    mask = d["mask"].to(torch.int)
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(BATCH, 1, dtype=torch.int),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": d["advantages"],
        "old_per_token_logps": d["old"],
        "ref_per_token_logps": d["ref"],
        "num_items_in_batch": mask.sum(),
        "old_logps": (d["old"] * mask).sum(1),
    }


def compare(ours: Tensor, theirs: Tensor, leaf: Tensor, tolerance: float) -> None:
    """Loss and gradient agree, and there is a gradient to speak of."""
    gradient, expected = torch.autograd.grad(ours, leaf)[0], torch.autograd.grad(theirs, leaf)[0]
    assert abs(ours.item() - theirs.item()) < tolerance
    assert (gradient - expected).abs().max().item() < tolerance
    assert expected.abs().max().item() > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.float64, 1e-12)])
@pytest.mark.parametrize("delta", [None, 1.5])
@pytest.mark.parametrize(("beta", "correct"), [(0.0, True), (0.2, True), (0.2, False)])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_grpo(
    loss_type: str, beta: float, correct: bool, delta: float | None, dtype: torch.dtype, tolerance: float
) -> None:
    for seed in range(4):
        d = draw(seed, dtype)
        args = SimpleNamespace(use_bias_correction_kl=correct, delta=delta, steps_per_generation=1)
        trainer = stand_in(d, {"loss_type": loss_type, "beta": beta, "args": args})
        theirs = GRPOTrainer._compute_loss(trainer, None, trl_inputs(d))
        ours, metrics = grpo_loss(
            d["logp"], d["old"], d["advantages"], d["mask"], loss_type, 0.2, 0.28, delta,  # type: ignore[arg-type]
            beta, d["ref"], use_bias_correction_kl=correct, max_length=LIMIT,
        )  # fmt: skip
        compare(ours, theirs, d["logp"], tolerance)
        logged = trainer._metrics["train"]
        assert metrics["clip_ratio/low"].item() == pytest.approx(logged["clip_ratio/low_mean"][0], abs=1e-6)
        assert metrics["clip_ratio/high"].item() == pytest.approx(logged["clip_ratio/high_mean"][0], abs=1e-6)
        if beta:
            assert metrics["kl"].item() == pytest.approx(logged["kl"][0], abs=1e-6)


def test_grpo_first_step_without_old_logp() -> None:
    """On policy TRL leaves the old log-probabilities out: the ratio is 1 and only its gradient counts."""
    d = draw(7, torch.float64)
    args = SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=1)
    trainer = stand_in(d, {"loss_type": "dapo", "beta": 0.1, "args": args})
    inputs = {key: value for key, value in trl_inputs(d).items() if key != "old_per_token_logps"}
    theirs = GRPOTrainer._compute_loss(trainer, None, inputs)
    ours, _ = grpo_loss(
        d["logp"], d["logp"].detach(), d["advantages"], d["mask"], beta=0.1, logp_ref=d["ref"]
    )
    compare(ours, theirs, d["logp"], 1e-12)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_grpo_accumulation(loss_type: str) -> None:
    """TRL's accumulation of two micro-batches equals one batch with our normalizer."""
    d = draw(3, torch.float64)
    args = SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=2)
    ours, _ = grpo_loss(d["logp"], d["old"], d["advantages"], d["mask"], loss_type, 0.2, 0.28)  # type: ignore[arg-type]
    total = torch.zeros((), dtype=torch.float64)
    for rows in (slice(0, 3), slice(3, 6)):
        part = {key: value[rows] for key, value in d.items()}
        settings = {
            "loss_type": loss_type,
            "beta": 0.0,
            "args": args,
            "current_gradient_accumulation_steps": 2,
        }
        inputs = {key: value[rows] if value.dim() else value for key, value in trl_inputs(d).items()}
        total = total + GRPOTrainer._compute_loss(stand_in(part, settings), None, inputs)
    compare(ours, total, d["logp"], 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.float64, 1e-12)])
@pytest.mark.parametrize("seed", range(4))
def test_rloo(seed: int, dtype: torch.dtype, tolerance: float) -> None:
    d = draw(seed, dtype)
    theirs = RLOOTrainer._compute_loss(stand_in(d, {}), None, trl_inputs(d))
    ours, metrics = rloo_loss(d["logp"], d["old"], d["advantages"], d["mask"], 0.2, 0.28)
    compare(ours, theirs, d["logp"], tolerance)
    assert 0 <= metrics["clip_ratio"].item() <= 1
