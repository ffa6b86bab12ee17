"""The round: collect, label, select, update, evaluate; every iterative method is a setting of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from mmalign.engine.iterate.collect import Drawing
from mmalign.engine.iterate.losses import update_loss
from mmalign.engine.iterate.measure import measured
from mmalign.engine.iterate.rounds import Round, open_round
from mmalign.engine.iterate.snapshot import Snapshot, SnapshotReference
from mmalign.engine.loop import Counter, LoopState
from mmalign.engine.optim import learning_rate_factor, set_learning_rates
from mmalign.engine.order import rows_for_step
from mmalign.engine.parallel import my_share
from mmalign.engine.step import Loss, optimisation_step
from mmalign.errors import UserError
from mmalign.objectives.preference import is_coupled
from mmalign.protocols import Samples
from mmalign.rng import generator

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from mmalign.config.iterate import IterateConfig
    from mmalign.engine.iterate.label import Labels
    from mmalign.engine.iterate.select import Item
    from mmalign.objectives.pairs import PairSettings
    from mmalign.protocols import Likelihood
    from mmalign.types import Row

__all__ = ["IterativeTrainer", "RewardMemory", "Weights"]


@dataclass(frozen=True)
class Weights:
    """The policy's earlier weights: before training, at the round's start and, where asked for, their average."""

    initial: Snapshot
    start: Snapshot
    average: Snapshot | None = None

    @staticmethod
    def of(model: nn.Module, reference: str) -> Weights:
        """Snapshots of the model as it is now (before a checkpoint is loaded)."""
        return Weights(Snapshot(model), Snapshot(model), Snapshot(model) if reference == "ema" else None)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to hold of them."""
        kept: dict[str, nn.Module] = {"start": self.start}
        return kept if self.average is None else {**kept, "average": self.average}

    def reference(self, how: str) -> Snapshot:
        """The weights that ``iterate.reference`` names."""
        return {"initial": self.initial, "previous": self.start, "ema": self.average or self.start}[how]


@dataclass
class RewardMemory:
    """The state of a reward that has one (a running normaliser), as it was when the round began and as it is.

    A round that is collected again after a kill starts from the first, a new round from the second.
    """

    reward: Any
    before: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, resumed: bool) -> None:
        """Called before a round is collected."""
        if not hasattr(self.reward, "state_dict"):
            return
        if resumed:
            self.reward.load_state_dict(self.before)
        self.before = dict(self.reward.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Both states, empty for a reward without one."""
        now = self.reward.state_dict() if hasattr(self.reward, "state_dict") else {}
        return {"before": dict(self.before), "now": dict(now)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.before = dict(state["before"])
        if hasattr(self.reward, "state_dict"):
            self.reward.load_state_dict(state["now"])


@dataclass
class IterativeTrainer:
    """One optimiser step of the loop; give ``trainer.step`` to :func:`mmalign.engine.loop.run_loop`.

    A round starts with the first of its ``updates`` steps.  When a run resumes in the middle of a round, its answers
    are drawn again by the weights of the round's start, which the checkpoint holds, from the same random streams;
    labels are read back from the round's file.

    Every process collects the whole round; the update is shared among them.

    Args:
        adapter: the modality.
        model: the policy, in eval mode.
        weights: its snapshots.
        rows: training prompts (with answers for ``label: data``).
        heldout: prompts on which reward, KL and length are measured at every round's end.
        labels: makes what ranks answers, anew for every round (``None`` for ``label: data``).
        memory: the reward's state.
        cfg: the section ``iterate``.
        pair: the pair loss's settings.
        state: modules (with ``weights.modules()``), optimiser and counters.
        folder: where ``rounds/<k>.jsonl`` go.
    """

    adapter: Likelihood
    model: nn.Module
    weights: Weights
    rows: Sequence[Row]
    heldout: Sequence[Row]
    labels: Callable[[], Labels] | None
    memory: RewardMemory
    cfg: IterateConfig
    pair: PairSettings
    state: LoopState
    folder: Path
    name: str
    seed: int
    accelerator: Accelerator | None = None
    _current: Round | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.cfg.update == "pair" and is_coupled(self.pair):
            self._refuse_split()
        draws = self.cfg.select != "data"
        if draws and not isinstance(self.adapter, Samples):
            raise UserError(
                f"stage {self.name}: modality {self.adapter.name!r} cannot sample: only select: data serves"
            )

    def _refuse_split(self) -> None:
        if self.cfg.per_device_train_batch_size < self.cfg.batch_size:
            raise UserError(
                f"{self.name}.per_device_train_batch_size: {', '.join(self.pair.loss_type)} couples the pairs of a "
                f"batch, so it must be {self.cfg.batch_size}, as batch_size"
            )

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` and return its metrics."""
        number, place = divmod(step - 1, self.cfg.updates)
        metrics: dict[str, float] = {}
        if self._current is None or self._current.number != number:
            metrics |= self._begin(number, resumed=place > 0)
        assert self._current is not None
        cfg = self.cfg
        factor = learning_rate_factor(step, cfg.max_steps, cfg.warmup_ratio, cfg.lr_scheduler_type)
        set_learning_rates(self.state.optimizer, factor)
        metrics |= self._update(self._current.items, step, place)
        metrics["learning_rate"] = float(self.state.optimizer.param_groups[0]["lr"])
        if place == self.cfg.updates - 1:
            metrics |= self._measure(number + 1)
        return metrics

    def _begin(self, number: int, *, resumed: bool) -> dict[str, float]:
        """Collect, label and select; at the round's first step the snapshots are taken before."""
        metrics: dict[str, float] = {}
        if not resumed:
            self.weights.start.take(self.model)
            if self.weights.average is not None and number:
                self.weights.average.average(self.model, self.cfg.ema_decay)
            if number == 0:
                metrics |= {f"start/{name}": value for name, value in self._measure(0).items()}
        self.memory.begin(resumed)
        with self.weights.start.installed(self.model):
            self._current, found = open_round(self, number, resumed)
        return metrics if resumed else metrics | found

    def _update(self, items: Sequence[Item], step: int, place: int) -> dict[str, float]:
        if not items:
            return {"loss": 0.0, "grad_norm": 0.0}
        size, stage = self.cfg.per_device_train_batch_size, f"{self.name}/{step - place}"
        batch = rows_for_step(items, self.cfg.batch_size, place + 1, seed=self.seed, stage=stage)
        mine = my_share(list(enumerate(batch)), self.accelerator)
        chunks = [mine[k : k + size] for k in range(0, len(mine), size)]
        reference = SnapshotReference(self.adapter, self.model, self.weights.reference(self.cfg.reference))
        sampler = SnapshotReference(self.adapter, self.model, self.weights.start)
        loss_fn = update_loss(self.adapter, self.model, reference, sampler, self.cfg, self.pair)

        def thunk(chunk: list[tuple[int, Item]]) -> Callable[[], Loss]:
            rng = generator(self.seed, self.name, "loss", step, chunk[0][0])
            return lambda: loss_fn([item for _, item in chunk], rng)

        return optimisation_step(
            [thunk(chunk) for chunk in chunks],
            self.state.optimizer,
            max_grad_norm=self.cfg.max_grad_norm,
            where=f"stage {self.name}, step {step}",
            accelerator=self.accelerator,
        )

    def _measure(self, number: int) -> dict[str, float]:
        """Held-out reward, KL to the start, length: the loop's "evaluate"."""
        totals = getattr(self.labels() if self.labels else None, "totals", None)
        saved = self.memory.state_dict()
        found = measured(
            replace(self.drawing(), temperature=1.0),
            self.model,
            self.weights.initial,
            self.heldout,
            totals,
            (self.name, "heldout", number),
        )
        self.memory.load_state_dict(saved)
        return found

    def drawing(self) -> Drawing:
        """How answers are drawn."""
        cfg = self.cfg
        return Drawing(
            self.adapter, self.seed, cfg.temperature, cfg.max_completion_length, cfg.rollout_batch_size
        )

    def counters(self) -> dict[str, Counter]:
        """What a checkpoint holds beside the weights."""
        return {"reward": self.memory}
