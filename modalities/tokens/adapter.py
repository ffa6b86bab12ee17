"""What the adapters of token models share: collating, scoring, sampling, segments, LoRA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError, nearest
from mmalign.modalities.tokens.batching import PaddingSide, pad_batch
from mmalign.modalities.tokens.encoding import EncodedPrompt, PromptSource, RowEncoder
from mmalign.modalities.tokens.foresight import answer_places, blended_answers, greedy_tokens
from mmalign.modalities.tokens.forward import answer_states
from mmalign.modalities.tokens.head import scattered, step_logp
from mmalign.modalities.tokens.loading import placeholder_ids, save_model, stop_ids, suppress_placeholders
from mmalign.modalities.tokens.lora import attach_lora, merged
from mmalign.modalities.tokens.packing import Packed, pack_batch, packed_states
from mmalign.modalities.tokens.rollouts import assemble, segmented
from mmalign.modalities.tokens.sampling import Draw, draw_answers, uniform_noise
from mmalign.modalities.tokens.segments import Granularity
from mmalign.modalities.tokens.sharing import SharedPrefix
from mmalign.modalities.tokens.towers import TowerCache
from mmalign.types import Batch, LogP, Rollout, Row, Speed

__all__ = ["TokenAdapter"]


class TokenAdapter(ABC):
    """Scores and samples token models; a modality adds how it loads them and how its prompts look.

    Args:
        padding_side: where the batches of ``collate`` are padded; results are the same either way.
        granularity: what a segment is, a ``sentence`` or a ``sub_sentence``.
        sample_batch: how many answers are drawn at once.
        cache_bytes: memory for processed prompts (token ids and media tensors).
        forbid_placeholders: media placeholder tokens get probability zero, when sampling and when scoring (an
            answer that holds one could not be read back); false scores as TRL does.
        speed: which short cuts are taken; each gives the numbers of the plain path.
    """

    name: str
    row_streams = True
    shares_prompts = True

    def __init__(
        self,
        *,
        padding_side: PaddingSide = "right",
        granularity: Granularity = "sentence",
        sample_batch: int = 256,
        cache_bytes: int = 256 * 2**20,
        forbid_placeholders: bool = True,
        speed: Speed | None = None,
    ) -> None:
        for value, known in ((padding_side, ("left", "right")), (granularity, ("sentence", "sub_sentence"))):
            if value not in known:
                raise UserError(f'unknown value "{value}"{nearest(value, known)}; one of {", ".join(known)}')
        self.padding_side: PaddingSide = padding_side
        self.granularity: Granularity = granularity
        self.sample_batch = sample_batch
        self.cache_bytes = cache_bytes
        self.forbid_placeholders = forbid_placeholders
        self.speed = speed if speed is not None else Speed()
        self.sharing = SharedPrefix()
        self.towers = TowerCache()
        self._processor: Any = None
        self._encoder: RowEncoder | None = None
        self._forbidden: Tensor | None = None
        self._answer_type = 0

    @abstractmethod
    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model and processor from a folder or hub name."""

    @abstractmethod
    def _source(self, model: nn.Module, processor: Any) -> PromptSource:
        """How prompts of this processor are encoded."""

    @property
    def processor(self) -> Any:
        """The processor (or tokenizer) of the loaded model."""
        self._ready()
        return self._processor

    def adopt(self, model: nn.Module, processor: Any) -> None:
        """Use a model and processor that are already in memory."""
        source = self._source(model, processor)
        self._processor = processor
        self._encoder = RowEncoder(source, stop_ids(model, source.tokenizer), self.cache_bytes)
        self._forbidden = None
        if self.forbid_placeholders:
            self._forbidden = torch.tensor(placeholder_ids(model), dtype=torch.long)
            suppress_placeholders(model)
        self.sharing = SharedPrefix()

    def save(self, model: nn.Module, folder: Path, *, merge: bool = False) -> None:
        """Write weights and processor for ``from_pretrained``; LoRA is written as an adapter or merged."""
        self._ready()
        save_model(model, self._processor, Path(folder), merge=merge)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Encode rows with answers; ``row.steps`` is used verbatim where present.

        Rows that share a prompt are laid out behind one copy of it (``Speed.share_prefix``), and rows of very
        different lengths without padding (``Speed.pack``).

        Raises:
            UserError: naming the row, for unreadable media, an empty response or a placeholder mismatch.
        """
        encoder = self._ready()
        if not rows:
            raise UserError("there are no rows to collate")
        prompts, answers = [self._prompt(row) for row in rows], [encoder.answer(row) for row in rows]
        for row, answer in zip(rows, answers, strict=True):
            self._check_answer(row, answer)
        if self.sharing.wanted(prompts, answers, self.speed):
            packed, mask = pack_batch(prompts, answers, share=self.speed.share_prefix)
            return Batch(tuple(rows), {"packed": packed, "input_ids": packed.ids}, mask)
        return self._padded(rows, prompts, answers)

    def _padded(
        self, rows: Sequence[Row], prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]]
    ) -> Batch:
        inputs, mask = pad_batch(
            prompts, answers, pad_id=self._pad_id(), side=self.padding_side, answer_type=self._answer_type
        )
        return Batch(tuple(rows), inputs, mask)

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
        """Log-probability ``[B, T]`` (nats) of every answer token at ``temperature``; one forward pass.

        The LM head runs on answer positions only, in float32.  ``rng`` is not used: the score of a token
        is not random.
        """
        device = next(model.parameters()).device
        mask = batch.mask.to(device)
        with self._cached_towers(model):
            states, tokens = self._states(model, batch, device)
        values, spread = self._head(model, states, tokens, mask, entropy, temperature)
        return LogP(
            values=scattered(values, mask),
            mask=mask,
            entropy=scattered(spread, mask) if spread is not None else None,
            hidden=states if hidden else None,
        )

    def logp_foreseen(
        self, model: nn.Module, batch: Batch, blend: float, rng: torch.Generator | None = None
    ) -> LogP:
        """:meth:`logp` where the model reads each answer token blended with its own greedy prediction of it."""
        device = next(model.parameters()).device
        mask = batch.mask.to(device)
        with torch.no_grad(), self._cached_towers(model):
            states, _ = self._states(model, batch, device)
            guesses = greedy_tokens(model, states[:, :-1][mask], self._banned(device))
        batch = self.sharing.settled(model, batch, device, self._plain)
        places = answer_places(batch, device)
        with self._cached_towers(model), blended_answers(model, places, guesses, blend):
            states, tokens = self._states(model, batch, device)
        values, _ = self._head(model, states, tokens, mask, False, 1.0)
        return LogP(values=scattered(values, mask), mask=mask)

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator | Sequence[torch.Generator],
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """Draw ``n`` answers per row; temperature 0 is greedy (log-probs then are those of temperature 1).

        ``rng`` is one generator for the batch, or one per row: then a row's answers depend on its own
        generator only.
        """
        encoder = self._ready()
        if not rows or n < 1 or max_steps < 1:
            raise UserError(
                f"nothing to sample: {len(rows)} rows, n={n}, max_steps={max_steps}; each must be at least 1"
            )
        noise = uniform_noise(rng, len(rows), n, max_steps)
        size = max(1, self.sample_batch // n)
        with self._cached_towers(model), merged(model, self.speed.merge_lora):
            draws = [
                self._draw(
                    model, rows[first : first + size], noise[first * n : (first + size) * n], n, temperature
                )
                for first in range(0, len(rows), size)
            ]
        return assemble(rows, n, draws, encoder.tokenizer, self.granularity)

    def segment_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Give rows with answers their steps and segments, e.g. human data that was not sampled here."""
        encoder = self._ready()
        return [segmented(row, encoder, self.granularity) for row in rows]

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """Attach LoRA, to every linear layer of the language model (``all-linear``) or to the named ones."""
        return attach_lora(model, r, alpha, None if target_modules == "all-linear" else target_modules, seed)

    def _states(self, model: nn.Module, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Hidden states ``[B, T + 1, H]`` and answer tokens ``[B, T]``, by the batch's own layout."""
        batch = self.sharing.settled(model, batch, device, self._plain)
        packed = batch.inputs.get("packed")
        if isinstance(packed, Packed):
            return packed_states(model, packed, device), packed.ids[0][packed.before[:, 1:]].to(device)
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        steps = batch.mask.shape[1]
        columns = inputs["start"][:, None] + torch.arange(steps, device=device)
        tokens = inputs["input_ids"].gather(1, columns.clamp(max=inputs["input_ids"].shape[1] - 1))
        return answer_states(model, inputs, steps), tokens

    def _head(
        self,
        model: nn.Module,
        states: Tensor,
        tokens: Tensor,
        mask: Tensor,
        entropy: bool,
        temperature: float,
    ) -> tuple[Tensor, Tensor | None]:
        return step_logp(
            model,
            states[:, :-1][mask],
            tokens[mask],
            temperature=temperature if temperature > 0 else 1.0,
            forbidden=self._banned(mask.device),
            entropy=entropy,
            compact=self.speed.compact_head,
        )

    def _plain(self, batch: Batch, places: Sequence[int]) -> Batch:
        """Some rows of a batch in the padded layout."""
        rows = [batch.rows[place] for place in places]
        encoder = self._ready()
        return self._padded(rows, [self._prompt(row) for row in rows], [encoder.answer(row) for row in rows])

    def _cached_towers(self, model: nn.Module) -> AbstractContextManager[None]:
        return self.towers.over(model) if self.speed.cache_towers else nullcontext()

    def _draw(self, model: nn.Module, rows: Sequence[Row], noise: Tensor, n: int, temperature: float) -> Draw:
        encoder = self._ready()
        prompts = [self._prompt(row) for row in rows]
        empty: list[list[int]] = [[] for _ in rows]
        inputs, _ = pad_batch(
            prompts, empty, pad_id=self._pad_id(), side="left", answer_type=self._answer_type
        )
        device = next(model.parameters()).device
        return draw_answers(
            model,
            {name: value.to(device) for name, value in inputs.items()},
            noise,
            n,
            temperature=temperature,
            stop_ids=encoder.stop_ids,
            forbidden=self._banned(device),
        )

    def _prompt(self, row: Row) -> EncodedPrompt:
        return self._ready().prompt(row)

    def _check_answer(self, row: Row, answer: Sequence[int]) -> None:
        if self._forbidden is not None and not set(self._forbidden.tolist()).isdisjoint(answer):
            raise UserError(f'row "{row.id}": the response contains a media placeholder token')

    def _banned(self, device: torch.device) -> Tensor | None:
        return None if self._forbidden is None else self._forbidden.to(device)

    def _pad_id(self) -> int:
        encoder = self._ready()
        pad = encoder.tokenizer.pad_token_id
        return int(encoder.stop_ids[0] if pad is None else pad)

    def _ready(self) -> RowEncoder:
        if self._encoder is None:
            raise UserError(f"the {self.name} adapter has no model yet: call load() first")
        return self._encoder
