"""The configuration of a run: frozen sections, unknown keys refused, YAML in and out.

Read one with :func:`mmalign.config.load.load_config`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmalign.config.constraint import ConstraintConfig
from mmalign.config.fields import Bool, Count, Int, NonNegative, PositiveCount, Section
from mmalign.config.iterate import IterateConfig
from mmalign.config.options import Option
from mmalign.config.pathwise import PathwiseConfig
from mmalign.config.personalise import PersonaliseConfig
from mmalign.config.policy import GRPOConfig, PPOConfig
from mmalign.config.preference import DPOConfig, KTOConfig
from mmalign.config.sections import (
    DataConfig,
    FeedbackConfig,
    ModelConfig,
    RewardConfig,
    RewardModelConfig,
    SFTConfig,
)
from mmalign.config.transfer import TransferConfig
from mmalign.config.transitions import TransitionsConfig

__all__ = [
    "ConstraintConfig",
    "DPOConfig",
    "DataConfig",
    "EvaluateConfig",
    "FeedbackConfig",
    "GRPOConfig",
    "GuardConfig",
    "IterateConfig",
    "KTOConfig",
    "ModelConfig",
    "PPOConfig",
    "PathwiseConfig",
    "ReportConfig",
    "RewardConfig",
    "RewardModelConfig",
    "RunConfig",
    "SFTConfig",
    "SpeedConfig",
    "TransferConfig",
    "TransitionsConfig",
]


class EvaluateConfig(Section):
    """Which tasks the start and the trained policies answer."""

    tasks: tuple[str, ...] = ("scenes-captions",)
    """Names of tasks (``mmalign list tasks``)."""
    n: PositiveCount = 128
    """Rows per task."""
    split: Literal["validation", "test"] = "test"
    """``validation`` while choosing settings, ``test`` once they are chosen."""
    temperatures: tuple[NonNegative, ...] = (0.0, 1.0)
    """Each task is answered at each temperature; 0 is greedy."""
    batch_size: PositiveCount = 32
    """Rows answered at once."""
    max_new_tokens: PositiveCount = 64
    """Longest answer, in steps."""
    task_options: dict[str, str | int] = Field(default_factory=dict)
    """Further options of the tasks that take them, such as ``{data: coco_pope.json, image_dir: val2014}``."""
    options: dict[str, Option] = Field(default_factory=dict)
    """Settings of the modality's adapter that hold while answers are evaluated, over ``model.options``."""
    include_start: Bool = True
    """Evaluate the policy that training started from as well."""


class ReportConfig(Section):
    """The HTML report."""

    enabled: Bool = True
    """Write ``report.html``."""
    n_examples: Count = 12
    """Pictured examples, before and after."""


class GuardConfig(Section):
    """The check that the model uses its media."""

    enabled: Bool = True
    """Run the check at the start of every training stage."""
    allow_unused_media: Bool = False
    """Go on although the model ignores its media."""
    n_rows: PositiveCount = 8
    """Rows the check looks at."""


class SpeedConfig(Section):
    """Short cuts that give the numbers of the plain path (to 1e-5); docs/speed.md says what each brings."""

    share_prefix: Bool = True
    """Answers to one prompt in one batch share the prompt's forward pass, without padding."""
    pack: Bool = True
    """Lay a batch out as one flat row where padding would be a fifth of it or more."""
    cache_towers: Bool = True
    """Keep the features of a frozen media tower; off by itself where the tower trains or carries an adapter."""
    compact_head: Bool = True
    """Form the LM head's gradient in the forward pass and never keep the logits."""
    merge_lora: Bool = True
    """Sample with LoRA added to the weights, which come back bit for bit; float32 and float64 weights only."""


class RunConfig(Section):
    """A recipe: which stages run, and everything they need to know."""

    recipe: str
    """The recipe's name, for tables and the report."""
    modality: str = "vision"
    """The adapter (``mmalign list modalities``)."""
    seed: Int = 0
    """Seed of every random stream of the run."""
    output_dir: str = "runs/fgaif"
    """The run folder; the same command on it resumes."""
    reuse_from: str | None = None
    """Another run folder whose finished stages count as this run's."""
    stages: tuple[str, ...] = ("sft", "feedback", "reward_model", "ppo", "evaluate", "report")
    """Stages, in order."""
    model: ModelConfig = ModelConfig()
    """The policy and its tuner."""
    data: DataConfig = DataConfig()
    """Rows."""
    sft: SFTConfig = SFTConfig()
    """Supervised fine-tuning."""
    feedback: FeedbackConfig = FeedbackConfig()
    """Answers and their labels."""
    reward_model: RewardModelConfig = RewardModelConfig()
    """The reward models."""
    reward: RewardConfig = RewardConfig()
    """From scores to rewards."""
    dpo: DPOConfig = DPOConfig()
    """Stage ``dpo``."""
    kto: KTOConfig = KTOConfig()
    """Stage ``kto``."""
    ppo: PPOConfig = PPOConfig()
    """Stage ``ppo``."""
    grpo: GRPOConfig = GRPOConfig()
    """Stage ``grpo``."""
    pathwise: PathwiseConfig = PathwiseConfig()
    """Stage ``pathwise``."""
    offline_rl: TransitionsConfig = TransitionsConfig()
    """Stage ``offline_rl``."""
    personalise: PersonaliseConfig = PersonaliseConfig()
    """Stage ``personalise``."""
    transfer: TransferConfig = TransferConfig()
    """Stage ``transfer``."""
    constraint: ConstraintConfig = ConstraintConfig()
    """A bound on a cost, for stages ``ppo`` and ``grpo``."""
    iterate: IterateConfig = IterateConfig()
    """Stage ``iterate``."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Tasks."""
    report: ReportConfig = ReportConfig()
    """The HTML report."""
    guard: GuardConfig = GuardConfig()
    """The check that the model uses its media."""
    speed: SpeedConfig = SpeedConfig()
    """Short cuts."""
    report_to: tuple[str, ...] = ()
    """Trackers beside ``metrics.jsonl``: tensorboard, wandb, trackio."""
