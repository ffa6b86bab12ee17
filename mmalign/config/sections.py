"""The sections of a run's configuration up to the reward; units and meaning under every field."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmalign.config.fields import (
    Bool,
    Count,
    Float,
    Int,
    NonNegative,
    Positive,
    PositiveCount,
    Section,
    Share,
)
from mmalign.config.options import Option
from mmalign.config.tuner import TunerConfig

__all__ = [
    "DataConfig",
    "FactsConfig",
    "FeedbackConfig",
    "ModelConfig",
    "RankingConfig",
    "RewardConfig",
    "RewardModelConfig",
    "SFTConfig",
]


class ModelConfig(Section):
    """The policy and its tuner."""

    model_name_or_path: str | None = None
    """A folder or a hub name; null is the embedded default of ``data.world``, ``embedded:1`` its second."""
    torch_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    lora_r: Count = 0
    """Rank of LoRA; 0 trains the weights themselves."""
    lora_alpha: PositiveCount = 16
    """Scale of LoRA, divided by ``lora_r``."""
    lora_target_modules: tuple[str, ...] | str = "all-linear"
    """Names of the layers that get LoRA, or ``all-linear``."""
    tuner: TunerConfig = TunerConfig()
    """Another tuner than LoRA, by name."""
    freeze: tuple[str, ...] = ("*vision_tower*", "*vision_model*", "*visual.*")
    """Shell patterns of parameter names that do not train; the default freezes vision towers (never a tuner's own)."""
    options: dict[str, Option] = Field(default_factory=dict)
    """Settings of the modality's adapter, such as ``{guidance_scale: 2, num_inference_steps: 20}``."""


class DataConfig(Section):
    """Rows: a file of one's own, or a world whose truth is known."""

    train: str | None = None
    """A ``rows.jsonl`` file; null takes rows of ``world``."""
    validation: str | None = None
    """Rows on which choices are made."""
    test: str | None = None
    """Rows on which nothing is chosen."""
    world: str = "scenes"
    """The world that rows come from when no file is given."""
    n_train: PositiveCount = 2048
    """How many training rows of ``world``; of a file every row is used (``max_rows`` reads fewer)."""
    n_validation: PositiveCount = 256
    """How many validation rows."""
    n_test: PositiveCount = 256
    """How many test rows."""
    image_root: str | None = None
    """Folder that relative media paths start from; null is the folder of the rows file."""
    max_rows: PositiveCount | None = None
    """Read at most so many rows of a file; null reads all."""
    columns: Literal["auto", "trl", "swift", "alpaca", "sharegpt"] = "auto"
    """Spelling of a file's columns; ``auto`` finds out, and stops where two could be meant (docs/data.md)."""
    check_rows: Bool = True
    """Look at every row of a file before training, so that a bad one stops the run at once; memory stays the same."""
    seed: Int = 0
    """Seed of the world's rows, apart from the run's own, so that runs with other seeds share data."""


class SFTConfig(Section):
    """Supervised fine-tuning on rows with answers."""

    max_steps: Count = 0
    """Optimiser steps; 0 skips the stage."""
    n_train: PositiveCount | None = None
    """Learn from the first so many training rows alone; null is all of them."""
    per_device_train_batch_size: PositiveCount = 16
    """Rows per forward pass and process."""
    learning_rate: Positive = 1e-4
    """Peak learning rate."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    save_steps: PositiveCount = 50
    """Write a checkpoint every so many steps."""


class FeedbackConfig(Section):
    """Answers of the start policy, labelled segment by segment."""

    judge: str = "scenes"
    """Who says whether a fact holds (``mmalign list judges``)."""
    judge_options: dict[str, str | Int | Float | Bool] = Field(default_factory=dict)
    """Arguments of the judge, such as ``{model: ..., rate_limit: 2}``."""
    extractor: str = "scenes"
    """What finds atomic facts in a segment (``mmalign list extractors``)."""
    n_prompts: PositiveCount = 256
    """Training prompts to answer."""
    n_heldout: PositiveCount = 64
    """Validation prompts to answer; reward models are measured on these."""
    n_samples: PositiveCount = 2
    """Answers per prompt."""
    temperature: NonNegative = 1.0
    """Temperature of the answers; 0 is greedy."""
    batch_size: PositiveCount = 32
    """Prompts answered at once."""
    max_new_tokens: PositiveCount = 64
    """Longest answer, in steps."""
    label_noise: Share = 0.0
    """Share of labels the scenes judge flips."""
    shuffle_labels: Bool = False
    """Control arm: permute the labels of the training answers."""


class RankingConfig(Section):
    """Compared answers: where they come from and the model of them (docs/rewards/preference.md)."""

    pairs: Literal["feedback", "data", "judge"] = "feedback"
    """Labelled answers of stage ``feedback``; rows with ``chosen``/``rejected`` or ``answers``/``scores``; or two fresh
    answers of the start policy to each of ``feedback.n_prompts`` prompts, between which ``feedback.judge`` chooses."""
    rank_by: Literal["labels", "errors_first"] = "labels"
    """Rank labelled answers by right less wrong labels, or by fewest wrong segments, then most right labels."""
    n_train: PositiveCount | None = None
    """Use at most so many training prompts; null uses all."""
    n_heldout: PositiveCount | None = None
    """Measure on at most so many held-out prompts; null uses all."""
    shuffle: Bool = False
    """Control arm: which training answer is the better one is drawn at random."""
    loss: Literal["bradley_terry", "plackett_luce", "pairwise", "cost"] = "bradley_terry"
    """All pairs, the whole ranking, a model of one answer against another, or order and safety (a cost model)."""
    sign_coef: NonNegative = 1.0
    """Weight of the terms of ``cost`` that put a cost's zero at the border of safety."""
    pool: Literal["last", "sum", "mean"] = "last"
    """Read the value after the last real step, or add or average the values of all steps."""
    read: Literal["state", "surprise", "likelihood"] = "state"
    """Read the state after a step; or also the one before, log-probability and entropy; or those numbers alone."""
    compare: Literal["states", "text"] = "states"
    """How ``pairwise`` sees both answers: their states, or the rival's text in the prompt."""
    margin: NonNegative = 0.0
    """By how much the better answer should win (``bradley_terry``), unless the row says so itself."""
    centering: NonNegative = 0.0
    """Weight of ``(r_w + r_l)^2``, which keeps scores near 0 (``bradley_terry``; .01 is usual)."""
    lm_coef: NonNegative = 0.0
    """Weight of the likelihood of each prompt's best answer, for a trunk that trains."""
    members: PositiveCount = 1
    """Size of the ensemble."""
    bootstrap: Bool = False
    """Every member of the ensemble learns from its own 63 % of the prompts."""
    media_scale: Share = 1.0
    """Show the reward model images at this share of their resolution; 0 blanks all media."""


class FactsConfig(Section):
    """Facts in the reward model's prompt (docs/rewards/factual.md)."""

    show: Literal["own", "other", "none"] = "own"
    """Facts of the row, of another row (a control), or none."""
    column: str = "captions"
    """Column of the rows with the facts, a text or a list of texts; rows of a world that knows its truth need none."""
    limit: PositiveCount = 10
    """Tell at most so many texts of a row."""
    shuffle: Bool = True
    """Tell a row's texts in an order of its own."""
    template: str = "{prompt}\n\nKnown facts: {facts}"
    """How prompt and facts are put together."""


class RewardModelConfig(Section):
    """Reward models: of ``fgaif`` per feedback type and segment, of ``preference`` and ``factual`` per answer."""

    max_steps: Count = 200
    """Optimiser steps; 0 skips the stage."""
    per_device_train_batch_size: PositiveCount = 16
    """Answers per forward pass and process."""
    learning_rate: Positive = 1e-4
    """Peak learning rate."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    shared_trunk: Bool = True
    """Three heads on one trunk instead of three models."""
    context: Literal["completion", "segment", "both"] = "completion"
    """Read every segment's end in one pass over the answer, verify each segment by itself, or both."""
    read: Literal["state", "surprise"] = "surprise"
    """Read the state at the segment's end alone (the paper), or the surprising steps before it as well."""
    head: Literal["linear", "mlp"] = "mlp"
    """What turns the reading into three classes (the paper: linear)."""
    train_trunk: Bool = True
    """Train the model below the heads; a frozen one is read once and its features are kept."""
    blank_media: Bool = False
    """Control arm: the reward models learn and score without seeing the media."""
    types: tuple[str, ...] = ("object", "attribute", "relation")
    """Feedback types; one reward model each."""
    model_name_or_path: str | None = None
    """What the models start from: a folder, a hub name, or a name of the world's; null is the start policy."""
    ranking: RankingConfig = RankingConfig()
    """What ``preference`` and ``factual`` learn from, and how."""
    facts: FactsConfig = FactsConfig()
    """What the reward model of ``factual`` is told beside the prompt; the policy never is."""
    save_steps: PositiveCount = 50
    """Write a checkpoint every so many steps."""


class RewardConfig(Section):
    """How segment scores become the reward of each step."""

    name: str = "fgaif"
    """The reward recipe, or a plain reward (``mmalign list rewards``)."""
    options: dict[str, str | Int | Float | Bool] = Field(default_factory=dict)
    """Arguments of a plain reward, such as ``{pattern: "left of"}`` of ``regex``."""
    source: Literal["model", "judge", "none"] = "model"
    """Scores of the reward models, of the judge itself (an upper bound), or none at all."""
    mode: Literal["class", "expected"] = "expected"
    """Pay the most likely class (-1, 0, +1), or the probability of +1 less that of -1."""
    placement: Literal["dense", "sequence"] = "dense"
    """At every segment's end, or the same total on the last real step."""
    weights: dict[str, Float] = Field(
        default_factory=lambda: {"object": 1.0, "attribute": 1.0, "relation": 1.0}
    )
    """Weight per type; a type left out is ablated."""
    length: Literal["reference", "errors", "centred", "mean"] = "reference"
    """``reference`` pays clean segments, so longer answers earn more; the others are length-neutral."""
    repeat_penalty: NonNegative = 0.5
    """What a segment costs that repeats an earlier one."""
    malformed_penalty: NonNegative = 0.5
    """What a segment costs that the world's grammar cannot read."""
    unfinished_penalty: NonNegative = 1.0
    """What an answer costs that reaches the length limit."""
    too_short_penalty: NonNegative = 0.0
    """What an answer costs that has no complete segment."""
    segment_bonus: Float = 0.0
    """Reward of every new well-formed segment, whatever it says; a length bonus."""
    fact_bonus: Float = 0.0
    """Reward of every fact an answer states for the first time, whatever its truth; a detail bonus."""
    clip: NonNegative = 10.0
    """Rewards of one step are clipped to plus or minus this; 0 for no clip."""
    model_weight: Float = 1.0
    """Weight of the score of ``preference`` and ``factual``, in standard deviations of the start's answers."""
    also: dict[str, Float] = Field(default_factory=dict)
    """Plain rewards paid beside ``name``, with their weights: ``{tunes-r: 1.0}``; they have their default options, and
    one of weight 0 is logged as ``watch/NAME`` and never paid."""
    uncertainty: NonNegative = 0.0
    """How many standard deviations between the members of an ensemble are taken off the score."""
    length_coef: Float = 0.0
    """Reward of a whole ``length_steps`` of answer, paid in proportion (LLaVA-RLHF: -10 for 896)."""
    length_steps: PositiveCount = 896
    """How many steps ``length_coef`` is the reward of."""
    correct_bonus: Float = 0.0
    """Reward of an answer that the known truth confirms (LLaVA-RLHF: 2)."""
    correct_by: Literal["choice", "facts"] = "choice"
    """The truth in ``meta["label"]`` (a letter, yes or no), or the judge on the facts of ``correct_types``."""
    correct_types: tuple[str, ...] = ("object",)
    """Types of facts that ``correct_by: facts`` asks the judge about."""
    watch_truth: Bool = False
    """Log what the judge says of the answers at every step (``truth/wrong``, ``truth/net``); never paid."""
