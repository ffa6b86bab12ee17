"""What a modality offers: scoring, sampling, gradients, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmalign.types import Batch, LogP, Rollout, Row, Speed

__all__ = [
    "Borrows",
    "Conditioned",
    "Configurable",
    "Foresees",
    "Likelihood",
    "Pathwise",
    "Personalises",
    "Samples",
    "Shows",
    "TakesShortCuts",
    "Tunes",
]


@runtime_checkable
class Likelihood(Protocol):
    """Loads a policy and scores given answers under it.  Required of every modality.

    An adapter with the attribute ``shares_prompts = True`` scores answers to one prompt together when they stand in
    one batch; its score then must not depend on the neighbours of a row.  With ``scores_bare_steps = True`` drawn
    rows whose ``completion`` was taken away are scored by their recorded Gaussian steps, even where a surrogate scores
    answers.
    """

    name: str

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        """Load the model (and keep its processor) from a folder or a hub name."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights and processor so that the owner library's ``from_pretrained`` loads them."""
        ...

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Encode rows with answers.  Uses ``row.steps`` where present, else ``row.completion``."""
        ...

    def logp(
        self,
        model: nn.Module,
        batch: Batch,
        rng: torch.Generator | None = None,
        *,
        entropy: bool = False,
        hidden: bool = False,
        temperature: float = 1.0,
    ) -> LogP:
        """Log-probability of every step of every answer, ``[B, T]`` in nats, left-aligned.

        ``temperature`` is that of the sampler: at the same temperature the behaviour log-probs of
        ``sample`` and these are equal.
        """
        ...


@runtime_checkable
class Samples(Protocol):
    """Draws answers with their behaviour log-probabilities.

    An adapter with the attribute ``row_streams = True`` also takes a sequence of generators, one per
    row, so that an answer depends on its own stream and not on its neighbours in the batch.  With
    ``random_start = True`` an answer begins at a drawn state (the noise of a picture), at temperature 0 too.
    """

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator,
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """Draw ``n`` answers per row (row-major: the ``n`` of row 0 first); temperature 0 is greedy."""
        ...


@runtime_checkable
class Conditioned(Protocol):
    """Lets the guard take the evidence away: without it the log-probabilities must move.

    The evidence is what the answer must depend on: the media, or where an adapter also offers :class:`Borrows`
    whatever that adapter says (the prompt of a picture, the observation of an action).
    """

    def blank(self, row: Row) -> Row:
        """The same row with its evidence replaced by neutral evidence of the same shape."""
        ...


@runtime_checkable
class Borrows(Protocol):
    """Says what the evidence of another row is where it is not the media (a prompt, an observation)."""

    def borrow(self, row: Row, other: Row) -> Row:
        """``row`` with its own answer and the evidence of ``other``."""
        ...


@runtime_checkable
class Configurable(Protocol):
    """Takes settings of its own (``model.options``), such as a sampler, a guidance scale or an environment."""

    def configure(self, options: Mapping[str, Any]) -> None:
        """Replace all settings by the defaults with ``options`` over them.

        Raises:
            UserError: for an unknown key (naming the nearest) or a value that does not fit.
        """
        ...


@runtime_checkable
class Pathwise(Protocol):
    """Samples so that a reward's gradient reaches the weights through the answer itself."""

    def sample_differentiable(
        self, model: nn.Module, rows: Sequence[Row], rng: torch.Generator, grad_steps: int
    ) -> torch.Tensor:
        """Answers ``[B * n, ...]`` with gradient through the last ``grad_steps`` steps of the sampler only.

        Equally many per row, those of a row side by side; one, unless a setting of the adapter asks for more.
        """
        ...


@runtime_checkable
class Tunes(Protocol):
    """Attaches LoRA where its modality wants it; switched off it gives the reference policy.

    Every other tuner attaches by name, without the adapter's help (:func:`mmalign.tuners.attach`).
    """

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """Return the model with LoRA attached (identity at first); only the adapter trains."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """Scores answers while reading its own prediction of each step mixed with the step itself (IFT)."""

    def logp_foreseen(
        self, model: nn.Module, batch: Batch, blend: float, rng: torch.Generator | None = None
    ) -> LogP:
        """Log-probability ``[B, T]`` in nats of every step, where the model reads a blend of each answer step.

        A first pass without gradient predicts every step greedily from the given ones before it; the second reads
        ``(1 - blend) * E(step) + blend * E(prediction)`` in the place of each answer step (its continuous input),
        the prompt untouched.  ``blend`` 0 equals :meth:`Likelihood.logp`.
        """
        ...


@runtime_checkable
class Personalises(Protocol):
    """Learns a new word for one thing from a few answers that show it."""

    def learn_word(self, model: nn.Module, *, word: str, like: str) -> nn.Module:
        """Add ``word`` to what the model reads, starting from the known words ``like``.

        Afterwards its embedding and the layers that read prompts train; every other weight stays bit for bit.

        Raises:
            UserError: where ``word`` is known already, ``like`` is not, or the model is of a kind that learns none.
        """
        ...

    def prompt_states(self, model: nn.Module, prompts: Sequence[str]) -> torch.Tensor:
        """What the model's text encoder makes of whole prompts, ``[B, D]``, with gradient towards the new word."""
        ...


@runtime_checkable
class TakesShortCuts(Protocol):
    """Has switches for its short cuts (section ``speed`` of the configuration)."""

    speed: Speed
    """Which short cuts are taken; each gives the numbers of the plain path."""


@runtime_checkable
class Shows(Protocol):
    """Pictures an input or an output for the report."""

    def show(self, row: Row) -> Mapping[str, Any]:
        """``{"images": [...png bytes], "audio": [...wav bytes], "text": str}``; absent keys allowed."""
        ...
