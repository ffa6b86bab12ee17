"""The plain records that travel between the parts of mmalign.

A policy of any modality makes trajectories of *steps*: tokens, denoising steps, control actions.
The core only ever sees step tensors ``[B, T]``; they are always **left-aligned** (step 0 of every
sample stands in column 0) however the model itself pads its tokens, and a boolean mask says which
columns are real.  Nothing here imports torch at run time, so the command line stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "FactLabel", "LogP", "Rollout", "Row", "Segment", "Speed", "StepReward"]

FactLabel = Literal[-1, 0, 1]
"""-1 hallucinated, 0 not applicable (no fact of that type), +1 every fact of that type is true."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a completion that gets its own feedback: a sentence, a bar, a denoising phase.

    ``start``/``end`` are **step** indices (half open) recorded at generation, never found again by
    re-tokenising; ``char_start``/``char_end`` index the decoded text.  ``labels`` maps a feedback
    type (``object``, ``attribute``, ``relation``) to -1, 0 or +1 once a judge has spoken.
    """

    start: int
    end: int
    text: str = ""
    char_start: int = 0
    char_end: int = 0
    kind: str = "sentence"
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt with its media and, where there is one, an answer.

    ``prompt`` is plain text or a list of ``{"role", "content"}`` messages (TRL's conversational
    form).  ``media`` are paths, PIL images or arrays in the order in which the prompt shows them.
    ``completion`` is what the policy answers (text, image, waveform, actions) and ``steps`` the same
    answer as recorded at generation (token ids, latents, actions): where ``steps`` is given,
    ``collate`` must use it instead of encoding ``completion`` again.  ``chosen`` and ``rejected`` are two
    answers to compare; ``chosen_media``/``rejected_media`` are media that only one of them comes with.
    """

    id: str
    prompt: Any
    media: tuple[Any, ...] = ()
    completion: Any = None
    steps: Any = None
    segments: tuple[Segment, ...] = ()
    chosen: Any = None
    rejected: Any = None
    chosen_media: tuple[Any, ...] = ()
    rejected_media: tuple[Any, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Collated rows: ``inputs`` belong to the adapter, ``mask`` ``[B, T]`` (bool) to the core."""

    rows: tuple[Row, ...]
    inputs: Mapping[str, Any]
    mask: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class LogP:
    """Per-step log-probabilities in nats.

    Args:
        values: ``[B, T]`` log-probability of the step taken; anything where ``mask`` is false.
        mask: ``[B, T]`` bool, true on real steps.
        entropy: ``[B, T]`` entropy of the step's distribution in nats, when asked for.
        hidden: ``[B, T + 1, H]``: ``hidden[:, t]`` is the state *before* step ``t`` (what a critic
            reads) and ``hidden[:, t + 1]`` the state *after* it (what a reward model reads).
        reduction: how log-densities were reduced over the ``dims`` numbers of one step.
        dims: how many numbers one step has (1 for a token); a ``mean`` divides the log-density by it.
        moments: where steps are Gaussian, ``(mean [B, T, D], std [B, T])`` of the step, for the exact KL.
        surrogate: true when the value is not a log-probability (e.g. minus a denoising error);
            importance ratios on a surrogate are refused.
    """

    values: Tensor
    mask: Tensor
    entropy: Tensor | None = None
    hidden: Tensor | None = None
    reduction: Literal["sum", "mean"] = "sum"
    surrogate: bool = False
    dims: int = 1
    moments: tuple[Tensor, Tensor] | None = None

    @property
    def nats(self) -> int:
        """What a difference of ``values`` is multiplied by to be in nats of the whole step."""
        return self.dims if self.reduction == "mean" else 1


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a policy sampled: rows with ``completion``, ``steps`` and ``segments`` filled in.

    ``logp`` ``[B, T]`` are the behaviour log-probabilities of the actual sampler, ``finished``
    ``[B]`` is true where the policy stopped by itself, ``group`` ``[B]`` numbers the prompts so that
    samples of one prompt share a number.
    """

    rows: tuple[Row, ...]
    logp: Tensor
    mask: Tensor
    finished: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Speed:
    """Short cuts an adapter may take; each gives the numbers of the plain path and can be switched off.

    ``share_prefix``: answers to one prompt in one batch share the prompt's (and its media's) forward pass, without
    padding.  ``pack``: so does a batch without shared prompts where padding would be a fifth of it or more.
    ``cache_towers``: features of a frozen media tower are kept.  ``compact_head``: the LM head forms its
    gradient in the forward pass and never keeps the logits.  ``merge_lora``: LoRA is added to the weights while
    answers are sampled; the weights themselves come back bit for bit.
    """

    share_prefix: bool = True
    pack: bool = True
    cache_towers: bool = True
    compact_head: bool = True
    merge_lora: bool = True


@dataclass(frozen=True, slots=True)
class StepReward:
    """A reward per step and the named parts it is made of (all ``[B, T]``, zero off the mask).

    ``notes`` are numbers per answer ``[B]`` that are logged under their names and never paid.

    Raises:
        ValueError: when the parts do not add up to ``per_step``.
    """

    per_step: Tensor
    parts: Mapping[str, Tensor]
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            return
        total = sum(self.parts.values())
        gap = float((self.per_step - total).abs().max()) if self.per_step.numel() else 0.0
        if not gap <= 1e-4 * max(1.0, float(self.per_step.abs().max()) if self.per_step.numel() else 1.0):
            raise ValueError(f"reward parts {sorted(self.parts)} differ from per_step by {gap:.3g}")
