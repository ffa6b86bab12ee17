"""CISPO, SAPO, LUSPO, VESPO and sequence-level ratios: TRL 1.16's own loss on the same tensors, golden numbers, and
what each is for."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from mmalign.config.policy import GRPOConfig
from mmalign.objectives.policy_family import FamilySettings, policy_family_loss, sequence_log_ratio
from tests.objectives.test_trl_parity import LIMIT, TOLERANCE, compare, draw, stand_in, trl_inputs

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
ARGS = dict(
    use_bias_correction_kl=True, delta=None, steps_per_generation=1, sapo_temperature_pos=1.0,
    sapo_temperature_neg=1.0625, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
)  # fmt: skip


def dense(d: dict[str, Tensor]) -> Tensor:
    return d["advantages"][:, None].expand_as(d["logp"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.float64, 1e-12)])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_trl(loss_type: str, level: str, dtype: torch.dtype, tolerance: float) -> None:
    high = 1.2 if loss_type == "cispo" else 0.28
    for seed in range(4):
        d = draw(seed, dtype)
        chosen = {
            "loss_type": loss_type, "beta": 0.0, "args": SimpleNamespace(**ARGS), "epsilon_high": high,
            "importance_sampling_level": level, "get_gamma_weights": staticmethod(GRPOTrainer.get_gamma_weights),
        }  # fmt: skip
        theirs = GRPOTrainer._compute_loss(stand_in(d, chosen), None, trl_inputs(d))
        settings = FamilySettings(loss_type, level, 0.2, high, sapo_temperature_neg=1.0625)  # type: ignore[arg-type]
        ours, _ = policy_family_loss(d["logp"], d["old"], dense(d), d["mask"], settings, LIMIT)
        compare(ours, theirs, d["logp"], tolerance)


def one(
    logp: list[list[float]], advantage: list[float], **changes: object
) -> tuple[float, list[list[float]]]:
    """Loss and gradient of sequences whose old log-probabilities are all -1."""
    now = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    gain = torch.tensor(advantage, dtype=torch.float64)[:, None].expand_as(now)
    settings = FamilySettings(**changes)  # type: ignore[arg-type]
    loss, _ = policy_family_loss(now, -torch.ones_like(now), gain, torch.ones_like(now).bool(), settings)
    return loss.item(), torch.autograd.grad(loss, now)[0].tolist()


def test_golden_numbers() -> None:
    ratio = math.exp(0.5)
    loss, slope = one([[-0.5]], [2.0], loss_type="cispo", cliprange_high=1.5)
    assert loss == pytest.approx(1.5 * 2.0 * 0.5) and slope[0][0] == pytest.approx(-1.5 * 2.0)
    loss, slope = one([[-0.5]], [2.0], loss_type="sapo", sapo_temperature_pos=2.0)
    gate = 1 / (1 + math.exp(-2 * (ratio - 1)))
    assert loss == pytest.approx(-(4 / 2) * gate * 2.0)
    assert slope[0][0] == pytest.approx(-4 * gate * (1 - gate) * ratio * 2.0)
    loss, slope = one([[-0.5, -1.5]], [-1.0], loss_type="vespo", vespo_neg=(3.0, 2.0))
    assert loss == pytest.approx((-0.5 - 1.5) / 2) and slope[0] == pytest.approx([0.5, 0.5])  # w = 1: phi = 1
    loss, _ = one([[-0.5, -0.5]], [1.0], loss_type="luspo", cliprange_high=9.0)
    assert loss == pytest.approx(-2 * ratio)


def test_on_policy_every_loss_is_the_policy_gradient() -> None:
    """At ratio 1 all of them push a step by its advantage; they differ in how steps are averaged."""
    for loss_type in LOSSES:
        high = 5.0 if loss_type == "cispo" else 0.2
        if loss_type == "dr_grpo":
            continue
        _, slope = one([[-1.0, -1.0], [-1.0, -1.0]], [1.0, -2.0], loss_type=loss_type, cliprange_high=high)
        share = 2.0 if loss_type == "luspo" else 4.0
        assert slope[0] == pytest.approx([-1 / share] * 2), loss_type
        assert slope[1] == pytest.approx([2 / share] * 2), loss_type


def test_cispo_still_learns_where_the_clip_is_silent() -> None:
    silent = one([[0.0]], [1.0], loss_type="dapo", cliprange_high=0.2)[1][0][0]
    heard = one([[0.0]], [1.0], loss_type="cispo", cliprange_high=1.2)[1][0][0]
    assert silent == 0.0 and heard == pytest.approx(-1.2)


def test_sequence_ratio_is_the_geometric_mean_and_ignores_padding() -> None:
    log_ratio = torch.tensor([[0.3, -0.1, 99.0], [0.2, 0.4, 0.6]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    level = sequence_log_ratio(log_ratio, mask)
    assert level[:, 0].tolist() == pytest.approx([0.1, 0.4])
    assert torch.equal(level, level[:, :1].expand_as(level))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="cliprange_high"):
        FamilySettings("cispo")
    with pytest.raises(ValueError, match="temperatures"):
        FamilySettings("sapo", sapo_temperature_neg=0.0)
    with pytest.raises(ValueError, match="cliprange_high"):
        GRPOConfig(loss_type="cispo")
    assert (
        GRPOConfig(loss_type="cispo", cliprange_high=5.0, importance_sampling_level="sequence").loss_type
        == "cispo"
    )
