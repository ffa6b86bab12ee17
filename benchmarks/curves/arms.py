"""What is compared: one arm per objective, and a control whose labels mean nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmalign.objectives.preference import PairSettings

__all__ = ["ARMS", "Arm", "Kind"]

Kind = Literal["pair", "kto", "apo_zero_unpaired", "bco"]
"""A loss over pairs, or one over single judged answers."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One trained model.

    Args:
        name: names its folder and its row.
        settings: losses and coefficients; of the unpaired kinds only ``beta`` counts.
        kind: which family the loss is from.
        shuffled: swap chosen and rejected of each training pair with probability 1/2.
        panel: the panel of the figure it is drawn in.
        note: the settings that are not the defaults, for the table.
    """

    name: str
    settings: PairSettings = field(default_factory=PairSettings)
    kind: Kind = "pair"
    shuffled: bool = False
    panel: str = "paired, against a reference"
    note: str = ""


def _one(name: str, note: str = "", panel: str = "paired, against a reference", beta: float = 0.1) -> Arm:
    return Arm(name, PairSettings((name,), beta=beta), panel=panel, note=note)


_FREE, _SINGLE, _LENGTH = "without a reference", "every answer by itself", "length and divergence"

ARMS: tuple[Arm, ...] = (
    _one("sigmoid"),
    Arm("cdpo", PairSettings(label_smoothing=0.1), note="sigmoid, label_smoothing 0.1"),
    Arm("robust", PairSettings(("robust",), label_smoothing=0.1), note="label_smoothing 0.1"),
    _one("hinge"),
    Arm("exo_pair", PairSettings(("exo_pair",), label_smoothing=1e-3), note="label_smoothing 0.001"),
    _one("discopop"),
    _one("aot"),
    _one("ipo_sum", panel=_LENGTH),
    _one("ipo", panel=_LENGTH),
    _one("sigmoid_norm", "beta 5", _LENGTH, beta=5.0),
    Arm("ld_dpo", PairSettings(ld_alpha=0.5), panel=_LENGTH, note="sigmoid, ld_alpha 0.5"),
    Arm("js", PairSettings(f_divergence_type="js_divergence"), panel=_LENGTH, note="sigmoid, js_divergence"),
    Arm(
        "forward_kl", PairSettings(f_divergence_type="forward_kl"), panel=_LENGTH, note="sigmoid, forward_kl"
    ),
    _one("nca_pair", panel=_SINGLE),
    _one("bco_pair", panel=_SINGLE),
    _one("sppo_hard", panel=_SINGLE),
    _one("aot_unpaired", panel=_SINGLE),
    _one("apo_zero", panel=_SINGLE),
    _one("apo_down", panel=_SINGLE),
    Arm("kto", kind="kto", panel=_SINGLE),
    Arm("apo_zero_unpaired", kind="apo_zero_unpaired", panel=_SINGLE),
    Arm("bco", kind="bco", panel=_SINGLE),
    Arm(
        "simpo",
        PairSettings(("simpo",), beta=2.0, simpo_gamma=1.0),
        panel=_FREE,
        note="beta 2, simpo_gamma 1",
    ),
    _one("cpo", panel=_FREE),
    _one("orpo", panel=_FREE),
    _one("sft", panel=_FREE),
    Arm(
        "mpo",
        PairSettings(("sigmoid", "bco_pair", "sft"), (0.8, 0.2, 1.0)),
        panel=_FREE,
        note="0.8 sigmoid + 0.2 bco_pair + 1 sft",
    ),
    Arm("shuffled", shuffled=True, note="sigmoid, labels of the pairs drawn at random"),
)
"""Every objective once, at its defaults unless the note says otherwise; ``shuffled`` is the control."""
