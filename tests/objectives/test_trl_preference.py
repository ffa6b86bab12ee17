"""TRL 1.16's real DPO, KTO, CPO and ORPO losses on a tiny Llama: the loss and the gradient of every weight.

The pairs have answers of several lengths, down to one token; pad may equal eos; ours is also computed from a
left-padded forward.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from mmalign.objectives.pair_losses import PAIR_LOSSES
from mmalign.objectives.preference import PairSettings, preference_loss, wpo_weights
from mmalign.objectives.unpaired import kto_kl, kto_loss

VOCAB = 24
PAIRS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7 w8", "rejected": " w9"},
    {"prompt": "w5", "chosen": " w10", "rejected": " w11 w12 w13"},
    {"prompt": "w6 w7 w8 w9", "chosen": " w14 w15", "rejected": " w16 w17"},
    {"prompt": "w3", "chosen": " w4 w4 w4 w5 w6 w9", "rejected": " w6 w8 w20 w21 w22"},
]


def tokenizer(pad: str) -> PreTrainedTokenizerFast:
    vocab = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, eos_token="<eos>", unk_token="<unk>")


def tiny_llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.4, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "max_length": None,
    }


@pytest.fixture(scope="module", params=["<pad>", "<eos>"])
def dpo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A real trainer, one of its batches, and the same answers as step tensors of ours."""
    folder = tmp_path_factory.mktemp("dpo")
    trainer = DPOTrainer(
        model=tiny_llama(0), ref_model=tiny_llama(1), args=DPOConfig(**common(folder), use_weighting=True),
        processing_class=tokenizer(request.param), train_dataset=Dataset.from_list(PAIRS),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return SimpleNamespace(trainer=trainer, batch=batch, policy=trainer.model, reference=trainer.ref_model)


def left(batch: dict[str, Tensor], name: str) -> Tensor:
    """One tensor of a right-padded batch, padded on the left instead."""
    rows = batch[name]
    real = batch["attention_mask"].sum(1)
    return torch.stack([row.roll(len(row) - int(n)) for row, n in zip(rows, real, strict=True)])


def steps(model: LlamaForCausalLM, batch: dict[str, Tensor], padding: str) -> tuple[Tensor, ...]:
    """Per-token log-probabilities, their collision terms and the mask, from a plain forward, ``[2B, T]``."""
    get = (lambda name: left(batch, name)) if padding == "left" else (lambda name: batch[name])
    ids, attention, answer = (get(n) for n in ("input_ids", "attention_mask", "completion_mask"))
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=positions).logits[:, :-1]
    logp_all = logits.log_softmax(-1)
    logp = logp_all.gather(-1, ids[:, 1:, None])[..., 0]
    return logp, (2 * logp_all).logsumexp(-1), answer[:, 1:].bool()


def gradient(loss: Tensor, model: LlamaForCausalLM) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def ours(dpo: SimpleNamespace, settings: PairSettings, padding: str, weighting: bool = False) -> Tensor:
    logp, collision, mask = steps(dpo.policy, dpo.batch, padding)
    with torch.no_grad():
        ref = steps(dpo.reference, dpo.batch, padding)[0]
    chosen, rejected = slice(0, len(mask) // 2), slice(len(mask) // 2, None)
    weights = None
    if weighting:
        parts = (x[s] for x in (logp, collision, mask) for s in (chosen, rejected))
        weights = wpo_weights(*parts)
    return preference_loss(
        logp[chosen], logp[rejected], ref[chosen], ref[rejected], mask[chosen], mask[rejected], settings, weights
    )[0]  # fmt: skip


def theirs(dpo: SimpleNamespace, settings: PairSettings, weighting: bool = False) -> Tensor:
    t = dpo.trainer
    t.loss_types = list(settings.loss_type)
    t.loss_weights = list(settings.loss_weights or [1.0] * len(settings.loss_type))
    t.beta, t.label_smoothing, t.ld_alpha = settings.beta, settings.label_smoothing, settings.ld_alpha
    t.f_divergence_type, t.f_alpha_divergence_coef = (
        settings.f_divergence_type,
        settings.f_alpha_divergence_coef,
    )
    t.use_weighting, t.args.discopop_tau = weighting, settings.discopop_tau
    return t._compute_loss(dpo.policy, dict(dpo.batch), False)


def agree(dpo: SimpleNamespace, settings: PairSettings, weighting: bool = False) -> None:
    expected = theirs(dpo, settings, weighting)
    expected_gradient = gradient(expected, dpo.policy)
    assert expected_gradient.norm().item() > 1e-3, "a gradient of zero would prove nothing"
    for padding in ("right", "left"):
        value = ours(dpo, settings, padding, weighting)
        assert abs(value.item() - expected.item()) <= 1e-5 * max(1.0, abs(expected.item())), padding
        gap = (gradient(value, dpo.policy) - expected_gradient).norm() / expected_gradient.norm()
        assert gap.item() <= 1e-5, padding


IN_TRL = [n for n in PAIR_LOSSES if n not in ("ipo_sum", "simpo", "cpo", "orpo")]


@pytest.mark.parametrize("name", IN_TRL)
def test_every_loss_of_the_dpo_trainer(dpo: SimpleNamespace, name: str) -> None:
    smoothing = 0.1 if name in ("exo_pair", "robust", "aot", "aot_unpaired") else 0.0
    agree(dpo, PairSettings((name,), beta=0.3, label_smoothing=smoothing))


@pytest.mark.parametrize("kind", ["forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "hinge", "discopop"])
def test_divergences(dpo: SimpleNamespace, kind: str, name: str) -> None:
    agree(dpo, PairSettings((name,), beta=0.2, f_divergence_type=kind, f_alpha_divergence_coef=0.4))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "nca_pair", "aot"])
def test_length_desensitised(dpo: SimpleNamespace, name: str) -> None:
    agree(dpo, PairSettings((name,), beta=0.2, ld_alpha=0.3))


def test_mixture_with_weights(dpo: SimpleNamespace) -> None:
    agree(dpo, PairSettings(("sigmoid", "bco_pair", "sft"), (0.8, 0.2, 1.5), beta=0.2))


@pytest.mark.parametrize("names", [("sigmoid",), ("sigmoid", "apo_zero")])
def test_wpo_weighting(dpo: SimpleNamespace, names: tuple[str, ...]) -> None:
    agree(dpo, PairSettings(names, beta=0.2), weighting=True)


@pytest.mark.parametrize("kind", ["simpo", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_and_cpo(dpo: SimpleNamespace, kind: str, smoothing: float) -> None:
    settings = PairSettings(
        ("simpo" if kind == "simpo" else "cpo",), beta=0.7, label_smoothing=smoothing, simpo_gamma=0.4
    )
    stand_in = SimpleNamespace(
        alpha=0.0, beta=0.7, label_smoothing=smoothing, simpo_gamma=0.4, loss_type=kind,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    logp, _, mask = steps(dpo.policy, dpo.batch, "right")
    sums = (logp * mask).sum(1) / (mask.sum(1) if kind == "simpo" else 1)
    expected = CPOTrainer.cpo_loss(stand_in, *sums.chunk(2))[0].mean()
    if kind == "sigmoid":
        w = mask[: len(mask) // 2]
        expected = expected - logp[: len(mask) // 2][w].mean()
    expected_gradient = gradient(expected, dpo.policy)
    value = ours(dpo, settings, "left")
    assert abs(value.item() - expected.item()) <= 1e-5
    assert ((gradient(value, dpo.policy) - expected_gradient).norm() / expected_gradient.norm()) <= 1e-5


def test_orpo(dpo: SimpleNamespace) -> None:
    stand_in = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    logp, _, mask = steps(dpo.policy, dpo.batch, "right")
    means = (logp * mask).sum(1) / mask.sum(1)
    odds = ORPOTrainer.odds_ratio_loss(stand_in, *means.chunk(2))[0]
    half = len(mask) // 2
    expected = -logp[:half][mask[:half]].mean() - odds.mean()
    expected_gradient = gradient(expected, dpo.policy)
    value = ours(dpo, PairSettings(("orpo",), beta=0.3), "left")
    assert abs(value.item() - expected.item()) <= 1e-5
    assert ((gradient(value, dpo.policy) - expected_gradient).norm() / expected_gradient.norm()) <= 1e-5


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_kto_trainer(tmp_path: Path, kind: str, pad: str) -> None:
    rows = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"}
        for p in PAIRS
        for side in ("chosen", "rejected")
    ][:7]
    args = KTOConfig(
        **{**common(tmp_path), "per_device_train_batch_size": 7}, beta=0.3, desirable_weight=1.2,
        undesirable_weight=0.7, loss_type=kind,
    )  # fmt: skip
    trainer = KTOTrainer(
        model=tiny_llama(0), ref_model=tiny_llama(1), args=args, processing_class=tokenizer(pad),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    policy, reference = trainer.model.train(), trainer.ref_model
    expected = trainer._compute_loss(policy, dict(batch), False)
    expected_gradient = gradient(expected, policy)

    logp, _, mask = steps(policy, batch, "left")
    with torch.no_grad():
        ref = steps(reference, batch, "left")[0]
        kl = 0.0
        if kind == "kto":
            mixed = {n: batch[f"KL_{n}"] for n in ("input_ids", "attention_mask", "completion_mask")}
            wrong, _, wrong_mask = steps(policy, mixed, "right")
            kl = kto_kl(wrong, steps(reference, mixed, "right")[0], wrong_mask)
    desirable = torch.as_tensor(batch["label"], dtype=torch.bool)
    value, metrics = kto_loss(logp, ref, mask, desirable, kl, 0.3, 1.2, 0.7, kind)  # type: ignore[arg-type]
    assert abs(value.item() - expected.item()) <= 1e-5
    assert ((gradient(value, policy) - expected_gradient).norm() / expected_gradient.norm()) <= 1e-5
    assert metrics["kl"].item() >= 0
