"""TRL 1.16's real DPO trainer against our adapters: every loss, text and image, LoRA and full, three endings.

TRL collates its own batch from raw columns; we collate ours.  Loss and the gradient of every trained weight agree,
padded on either side and with every speed switch on.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trl import DPOConfig, DPOTrainer

from mmalign.engine.pairs import pair_objective
from mmalign.objectives.pair_losses import PAIR_LOSSES
from mmalign.objectives.preference import PairSettings
from tests.parity.setups import SETUPS, close, kind, move_away, ready_batch, their_gradient, trl_models

IN_TRL = [name for name in PAIR_LOSSES if name not in ("ipo_sum", "simpo", "cpo", "orpo")]
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")


@pytest.fixture(scope="module", params=SETUPS, ids=lambda setup: setup.name)
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    setup = request.param
    model, reference, processing, peft = trl_models(setup)
    trainer = DPOTrainer(
        model=model, ref_model=reference, processing_class=processing, peft_config=peft,
        args=DPOConfig(**kind(tmp_path_factory.mktemp("dpo"), 4), max_length=None),
        train_dataset=setup.dataset("chosen", "rejected"),
    )  # fmt: skip
    move_away(trainer.model, scale=0.1)
    trainer.model.train()
    ours = setup.ours()
    return SimpleNamespace(
        setup=setup,
        trainer=trainer,
        batch=ready_batch(trainer),
        ours=ours,
        pairs=setup.pairs(ours.processing),
    )


def test_the_setup_holds_what_it_promises(sides: SimpleNamespace) -> None:
    lengths = sides.batch["completion_mask"].sum(1)
    assert lengths.min().item() == (1 if sides.setup.ending == "bare" else 2)
    assert len(lengths.unique()) >= 4
    tokenizer = getattr(sides.ours.processing, "tokenizer", sides.ours.processing)
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (sides.setup.ending != "pad")


@pytest.mark.parametrize("name", IN_TRL)
def test_loss_and_gradient(sides: SimpleNamespace, name: str) -> None:
    # DiscoPOP divides the margin by tau: at the default of 0.05 rounding counts twenty times (2e-5 was seen there).
    smoothing = 0.1 if name in SMOOTHED else 0.0
    settings = PairSettings((name,), beta=0.3, label_smoothing=smoothing, discopop_tau=0.5)
    trainer = sides.trainer
    trainer.loss_types, trainer.loss_weights = [name], [1.0]
    trainer.beta, trainer.label_smoothing = settings.beta, settings.label_smoothing
    trainer.args.discopop_tau = settings.discopop_tau
    theirs = trainer.compute_loss(trainer.model, dict(sides.batch))
    expected = their_gradient(trainer, theirs)
    for variant, adapter, reference in sides.ours.variants(plain=name == "sigmoid"):
        objective = pair_objective(adapter, sides.ours.model, reference, settings)
        value = objective(sides.pairs, torch.Generator().manual_seed(0)).value
        close(value.detach(), theirs.detach(), f"{variant}: loss")
        close(sides.ours.gradient(value), expected, f"{variant}: gradient")
        assert adapter.sharing.reason == ""
