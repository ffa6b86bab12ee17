"""What a stage needs to know of its run: the folder, the adapter, the rows and where metrics go."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.config.load import written_for
from mmalign.engine.atomic import write_json
from mmalign.errors import UserError
from mmalign.pipeline.files import split_rows
from mmalign.pipeline.sink import StageSink
from mmalign.protocols import Configurable, TakesShortCuts
from mmalign.types import Speed

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mmalign.config.schema import RunConfig
    from mmalign.data.rows import Rows
    from mmalign.protocols import Likelihood
    from mmalign.types import Row

__all__ = ["POLICY_STAGES", "SHARED_STAGES", "RunContext"]

POLICY_STAGES = ("dpo", "kto", "ppo", "grpo", "pathwise", "personalise", "iterate", "offline_rl")
"""Stages that end in a policy of their own, evaluated as an arm of that name."""

SHARED_STAGES = ("sft", "feedback", "reward_model")
"""Stages that a run may take over from the one named in ``reuse_from``."""


@dataclass
class RunContext:
    """One run: its configuration, its folder and the objects stages share."""

    cfg: RunConfig
    run_dir: Path
    _opened: dict[str, Rows] = field(default_factory=dict, repr=False)

    @cached_property
    def accelerator(self) -> Accelerator:
        """The process group and device."""
        from mmalign.engine.parallel import make_accelerator

        return make_accelerator()

    @cached_property
    def adapter(self) -> Likelihood:
        """The modality's adapter."""
        made: Likelihood = registry.load("modalities", self.cfg.modality, key="modality")()
        if isinstance(made, TakesShortCuts):
            made.speed = Speed(**self.cfg.speed.model_dump())
        self._configure(made, self.cfg.model.options, "model.options")
        return made

    @contextmanager
    def decoding(self) -> Iterator[Likelihood]:
        """The adapter with ``evaluate.options`` over ``model.options`` for as long as answers are evaluated."""
        cfg = self.cfg
        if cfg.evaluate.options:
            self._configure(self.adapter, {**cfg.model.options, **cfg.evaluate.options}, "evaluate.options")
        try:
            yield self.adapter
        finally:
            if cfg.evaluate.options:
                self._configure(self.adapter, cfg.model.options, "model.options")

    def _configure(self, adapter: Likelihood, options: Mapping[str, Any], key: str) -> None:
        try:
            if isinstance(adapter, Configurable):
                adapter.configure(options)
            elif options:
                raise UserError(f"{key}: modality {self.cfg.modality!r} takes no settings; remove them")
        except UserError as error:
            own = written_for(self.cfg)
            if own is None:
                raise
            raise UserError(
                f"{error}; the recipe {self.cfg.recipe} is written for modality {own}, not {self.cfg.modality}"
            ) from None

    @cached_property
    def world(self) -> Any:
        """The world that rows and truth come from when no data file is given."""
        return registry.load("worlds", self.cfg.data.world, key="data.world")

    def stage_dir(self, stage: str) -> Path:
        """The stage's folder."""
        return self.run_dir / "stages" / stage

    def home(self, stage: str) -> Path:
        """The run folder whose finished ``stage`` counts: this run's own, else ``reuse_from``'s.

        Only :data:`SHARED_STAGES` are taken over: policies and their evaluation are a run's own.
        """
        other = self.cfg.reuse_from
        if (
            other is not None
            and stage in SHARED_STAGES
            and not (self.stage_dir(stage) / "done.json").is_file()
        ):
            shared = Path(other)
            if (shared / "stages" / stage / "done.json").is_file():
                return shared
        return self.run_dir

    def is_done(self, stage: str) -> bool:
        """Whether the stage has finished, here or in ``reuse_from``."""
        return (self.home(stage) / "stages" / stage / "done.json").is_file()

    def mark_done(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Record that a stage has finished, with a few facts about it."""
        if self.accelerator.is_main_process:
            write_json(self.stage_dir(stage) / "done.json", dict(facts))
        self.accelerator.wait_for_everyone()

    def done_facts(self, stage: str) -> dict[str, Any]:
        """The facts a finished stage recorded.

        Raises:
            UserError: when the stage has not finished.
        """
        file = self.home(stage) / "stages" / stage / "done.json"
        if not file.is_file():
            raise UserError(
                f"{self.run_dir}: stage {stage} has not finished; run `mmalign train {stage}` on it first"
            )
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return facts

    def sink(self, stage: str) -> StageSink:
        """Where the stage's metrics go."""
        trackers = self.cfg.report_to if self.accelerator.is_main_process else ()
        return StageSink(self.run_dir, stage, trackers)

    def base_model(self) -> str:
        """The model the recipe starts from: the configured one, or an embedded default of the world.

        ``model.model_name_or_path`` null or ``embedded`` is the world's first start model,
        ``embedded:1`` its second.

        Raises:
            UserError: when the world has no such start model.
        """
        name = self.cfg.model.model_name_or_path or "embedded"
        head, _, number = name.partition(":")
        if head != "embedded":
            return name
        bases = [str(base) for base in self.world.BASES]
        if not (number or "0").isdigit() or int(number or 0) >= len(bases):
            known = ", ".join(f"embedded:{k}" for k in range(len(bases)))
            raise UserError(
                f"model.model_name_or_path: no start model {name!r}; the world {self.cfg.data.world} has {known}"
            )
        return bases[int(number or 0)]

    def start_policy(self) -> str:
        """The policy that feedback is collected on and that RL starts from: the SFT stage's, if it ran."""
        trained = self.home("sft") / "stages" / "sft" / "final"
        return str(trained) if trained.is_dir() else self.base_model()

    def reward_model_source(self) -> str:
        """What reward models start from: the configured model, one of the world's readers, or the start policy.

        Raises:
            UserError: when ``embedded:NAME`` names no reader of the world.
        """
        name = self.cfg.reward_model.model_name_or_path
        if name is None:
            return self.start_policy()
        head, _, reader = name.partition(":")
        if head != "embedded":
            return name
        readers: Mapping[str, Any] = getattr(self.world, "READERS", {})
        if reader not in readers:
            known = ", ".join(f"embedded:{key}" for key in readers) or "none"
            raise UserError(
                f"reward_model.model_name_or_path: the world {self.cfg.data.world} has no {name!r}, only {known}"
            )
        return str(readers[reader])

    def load_model(self, source: str) -> nn.Module:
        """Load a model onto this process's device, in eval mode."""
        model = self.adapter.load(
            source, device=str(self.accelerator.device), dtype=self.cfg.model.torch_dtype
        )
        return model.eval()

    def training_rows(self, kind: str = "caption", most: int | None = None) -> Sequence[Row]:
        """Every row of the training file, or ``data.n_train`` rows of the world; ``most`` of them at most."""
        n = self.cfg.data.n_train if self.cfg.data.train is None else sys.maxsize
        return self.rows("train", n if most is None else min(n, most), kind)

    def rows(self, split: str, n: int, kind: str = "caption", offset: int = 0) -> Sequence[Row]:
        """Rows of a split: from the configured file (read when asked for), or ``n`` rows of the world.

        Args:
            split: ``train``, ``validation`` or ``test``.
            n: how many.
            kind: the world's kind of rows (``caption`` prompts a description).
            offset: skip this many rows of the split first.
        """
        data = self.cfg.data
        source = getattr(data, split)
        if source is None and data.train is not None:
            raise UserError(f"data.{split}: this recipe needs {split} rows; name a file with --data.{split}")
        if source is None:
            rows: list[Row] = self.world.rows(split, n + offset, data.seed, kind)
            return rows[offset:]
        if split not in self._opened:
            self._opened[split] = split_rows(
                data, split, self.run_dir, write=self.accelerator.is_main_process
            )
        read = self._opened[split]
        if offset and len(read) <= offset:
            return read[len(read) // 2 :]
        return read[offset : offset + n]
