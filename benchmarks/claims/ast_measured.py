"""What the claim about audio adapters measures: a small AST, pretrained on some attributes of tunes, tuned to more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.config.transfer import TransferConfig
from mmalign.data.jsonl import write_json
from mmalign.engine.atomic import write_folder
from mmalign.engine.transfer.fitting import Examples, FitPlan, fit, score
from mmalign.engine.transfer.prepare import prepare
from mmalign.rng import derive_seed
from mmalign.tuners.adapters import AdapterPart
from mmalign.worlds.tunes.bands import BANDS, FRAMES
from mmalign.worlds.tunes.corpus import labels_of, make_pool
from mmalign.worlds.tunes.tune import ATTRIBUTES

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["ARMS", "FILE", "LEARNT", "TASKS", "Spectral", "hear", "never_trains"]

FILE = "measured.json"
LEARNT, TASKS = ("timbre", "register", "dynamics"), ("tempo", "mode", "contour")
"""What the backbone is pretrained to tell, and what it is tuned to."""
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
PATCHES: dict[str, Any] = {"patch_size": 12, "frequency_stride": 12, "time_stride": 10}
PRETRAIN, PRETRAIN_EPOCHS = 2000, 8
TRAIN, VALIDATION, TEST, EPOCHS = 400, 200, 600, 15
RATES = (3e-3, 1e-2)
FULL_RATES = (3e-4, 1e-3)


@dataclass(frozen=True)
class _Arm:
    tuner: str
    options: dict[str, Any]
    rates: tuple[float, ...] = RATES
    dead: bool = False


ARMS: dict[str, _Arm] = {
    "linear": _Arm("linear", {}, (1e-2, 3e-2)),
    "full": _Arm("full", {}, FULL_RATES),
    "lora": _Arm("lora", {"r": 1, "alpha": 1}),
    "bottleneck": _Arm("ast", {"kind": "bottleneck", "reduction": 12}),
    "conformer": _Arm("ast", {"kind": "conformer", "reduction": 24}),
    "reference": _Arm("ast", {"kind": "bottleneck", "reduction": 12}, dead=True),
}
"""Ways to tune, each of about 500 numbers a block (LoRA 672); ``reference`` starts both projections at 0."""


class Spectral(nn.Module):
    """transformers' AST on log bands, with a head on the mean over all tokens.

    Args:
        classes: of the head.
        seed: draws the head (and everything, before weights are loaded).
    """

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        from transformers import ASTConfig, ASTModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "claims", "ast"))
            self.ast = ASTModel(ASTConfig(**SIZES, **PATCHES, num_mel_bins=BANDS, max_length=FRAMES))
            self.head = nn.Linear(SIZES["hidden_size"], classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def get_classifier(self) -> nn.Linear:
        """The head."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log bands ``[B, F, BANDS]``."""
        out: Tensor = self.head(self.ast(x).last_hidden_state.mean(1))
        return out


def hear(ctx: RunContext) -> None:
    """Tune the pretrained AST to every task in every way and write ``measured.json``.

    Keys: ``<arm>/task/<attribute>`` and ``<arm>/mean`` (test accuracy), ``<arm>/trained`` (numbers without the head),
    ``<arm>/cpu_seconds`` (of the chosen fits).
    """
    folder = _pretrained(ctx.run_dir / ".." / ".." / "pretrained")
    splits = {
        name: _part(split, n)
        for name, split, n in (
            ("train", "train", TRAIN),
            ("val", "validation", VALIDATION),
            ("test", "test", TEST),
        )
    }
    found: dict[str, float] = {}
    for name, arm in ARMS.items():
        for task in TASKS:
            data = {key: _of(x, labels, task) for key, (x, labels) in splits.items()}
            accuracy, trained, seconds = _tuned(arm, task, data, folder, ctx.cfg.seed)
            found |= {f"{name}/task/{task}": accuracy, f"{name}/trained": float(trained)}
            found[f"{name}/cpu_seconds"] = found.get(f"{name}/cpu_seconds", 0.0) + seconds / len(TASKS)
        found[f"{name}/mean"] = sum(found[f"{name}/task/{task}"] for task in TASKS) / len(TASKS)
    write_json(ctx.run_dir / FILE, found)


def never_trains(model: nn.Module) -> None:
    """Set the down-projections of adapters to 0 as the up-projections are: neither gets a gradient, ever."""
    for part in model.modules():
        if isinstance(part, AdapterPart):
            nn.init.zeros_(part.down.weight)
            nn.init.zeros_(part.down.bias)


def _tuned(
    arm: _Arm, task: str, data: dict[str, Examples], folder: Path, seed: int
) -> tuple[float, int, float]:
    """Test accuracy at the rate that is best on validation, numbers trained, CPU seconds of that fit."""
    best: tuple[float, nn.Module, int, float] | None = None
    for rate in arm.rates:
        cfg = TransferConfig.model_validate({"tuner": {"name": arm.tuner, "options": arm.options}})
        ready = prepare(
            _backbone(folder, len(ATTRIBUTES[task]), seed), cfg, data["train"], learning_rate=rate, seed=seed
        )
        if arm.dead:
            never_trains(ready.model)
        plan = FitPlan(rate, EPOCHS, seed=seed, stream=("claims", "ast", task))
        done = fit(ready.model, data["train"], plan)
        found = score(ready.model, data["val"], len(ATTRIBUTES[task]))
        if best is None or found > best[0]:
            best = (found, ready.model, ready.trainable, done.cpu_seconds)
    assert best is not None
    return score(best[1], data["test"], len(ATTRIBUTES[task])), best[2], best[3]


def _backbone(folder: Path, classes: int, seed: int) -> Spectral:
    from safetensors.torch import load_file

    model = Spectral(classes, seed)
    model.ast.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def _part(split: str, n: int) -> tuple[Tensor, Tensor]:
    pool = make_pool(split, n, 0, "claim-ast")
    return (pool.bands.float() + 3.0) / 3.0, labels_of(pool.tunes)  # about -1 to 1


def _of(x: Tensor, labels: Tensor, task: str) -> Examples:
    return Examples(x, labels[:, list(ATTRIBUTES).index(task)])


def _pretrained(folder: Path) -> Path:
    """The backbone's weights; trained by whoever comes first, the same whoever that is."""
    from safetensors.torch import save_file

    if not (folder / "model.safetensors").is_file():
        x, labels = _part("train", PRETRAIN + TRAIN)
        x, labels = x[TRAIN:], labels[TRAIN:]  # the first are the tasks' own
        wanted = [list(ATTRIBUTES).index(name) for name in LEARNT]
        widths = [len(ATTRIBUTES[name]) for name in LEARNT]
        model = Spectral(sum(widths), 0)

        def loss(net: nn.Module, part: Tensor, truth: Tensor, index: Tensor) -> Tensor:
            logits = net(part).split(widths, dim=1)
            each = [F.cross_entropy(out, truth[:, k]) for out, k in zip(logits, wanted, strict=True)]
            return torch.stack(each).sum()

        fit(
            model,
            Examples(x, labels),
            FitPlan(2e-3, PRETRAIN_EPOCHS, stream=("claims", "ast")),
            objective=loss,
        )
        write_folder(
            folder,
            lambda place: save_file(
                {name: value.contiguous() for name, value in model.ast.state_dict().items()},
                place / "model.safetensors",
            ),
        )
    return folder
