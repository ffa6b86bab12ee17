"""The capabilities a plug-in may offer, each a small protocol found by ``isinstance``.

``Likelihood`` is required of every modality.  The others are optional: an algorithm asks for the
capability it needs (``isinstance(adapter, Samples)``) and says so in one sentence when it is absent.
The core never asks for a modality by name.
"""

from __future__ import annotations

from mmalign.protocols.control import Continues, Transitions
from mmalign.protocols.measuring import Judge, Task, Tracker
from mmalign.protocols.policies import (
    Borrows,
    Conditioned,
    Configurable,
    Foresees,
    Likelihood,
    Pathwise,
    Personalises,
    Samples,
    Shows,
    TakesShortCuts,
    Tunes,
)
from mmalign.protocols.rewards import (
    ComparesAnswers,
    DifferentiableReward,
    Reward,
    RewardRecipe,
    RewardTrainer,
)
from mmalign.protocols.transfer import TransferData, TransferSuite, TransferTask

__all__ = [
    "Borrows",
    "ComparesAnswers",
    "Conditioned",
    "Configurable",
    "Continues",
    "DifferentiableReward",
    "Foresees",
    "Judge",
    "Likelihood",
    "Pathwise",
    "Personalises",
    "Reward",
    "RewardRecipe",
    "RewardTrainer",
    "Samples",
    "Shows",
    "TakesShortCuts",
    "Task",
    "Tracker",
    "TransferData",
    "TransferSuite",
    "TransferTask",
    "Transitions",
    "Tunes",
]
