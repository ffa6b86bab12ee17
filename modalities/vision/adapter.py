"""The vision modality: any Hugging Face image-text-to-text model as a maker of token trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError, nearest
from mmalign.modalities.vision.batching import PaddingSide, PlaceholderCheck, count_features, pad_batch
from mmalign.modalities.vision.encoding import EncodedPrompt, RowEncoder
from mmalign.modalities.vision.forward import answer_states, step_logp, unwrap
from mmalign.modalities.vision.loading import (
    load_model,
    load_processor,
    placeholder_ids,
    save_model,
    stop_ids,
    suppress_placeholders,
)
from mmalign.modalities.vision.lora import attach_lora
from mmalign.modalities.vision.media import blank_image, png_bytes
from mmalign.modalities.vision.prompts import answer_text, plain_text
from mmalign.modalities.vision.rollouts import assemble
from mmalign.modalities.vision.sampling import Draw, draw_answers, uniform_noise
from mmalign.modalities.vision.segments import Granularity, char_ends, segment
from mmalign.types import Batch, LogP, Rollout, Row

__all__ = ["VisionAdapter"]


class VisionAdapter:
    """Loads, scores, samples and shows a vision-language model.

    Args:
        padding_side: where the batches of ``collate`` are padded; results are the same either way.
        granularity: what a segment is, a ``sentence`` or a ``sub_sentence``.
        sample_batch: how many answers are drawn at once.
        cache_bytes: memory for processed prompts (token ids and pixel tensors).
    """

    name = "vision"
    row_streams = True

    def __init__(
        self,
        *,
        padding_side: PaddingSide = "right",
        granularity: Granularity = "sentence",
        sample_batch: int = 256,
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        for value, known in ((padding_side, ("left", "right")), (granularity, ("sentence", "sub_sentence"))):
            if value not in known:
                raise UserError(f'unknown value "{value}"{nearest(value, known)}; one of {", ".join(known)}')
        self.padding_side: PaddingSide = padding_side
        self.granularity: Granularity = granularity
        self.sample_batch = sample_batch
        self.cache_bytes = cache_bytes
        self._processor: Any = None
        self._encoder: RowEncoder | None = None
        self._check: PlaceholderCheck | None = None
        self._forbidden: Tensor | None = None
        self._answer_type = 0

    @property
    def processor(self) -> Any:
        """The processor of the loaded model."""
        self._ready()
        return self._processor

    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model and processor from a folder or hub name.

        A folder with a LoRA adapter brings its base along; the adapter is merged, so that whatever is
        attached next starts from it, or kept as a trainable ``PeftModel`` with ``merge=False``.

        Raises:
            UserError: when the source is missing, is no image-text model or has no chat template.
        """
        processor = load_processor(source)
        model = load_model(source, device=device, dtype=dtype, merge=merge)
        self.adopt(model, processor)
        return model

    def adopt(self, model: nn.Module, processor: Any) -> None:
        """Use a model and processor that are already in memory."""
        hugging = unwrap(model)
        config = hugging.config
        image_id = getattr(config, "image_token_id", None)
        self._processor = processor
        self._encoder = RowEncoder(processor, stop_ids(model, processor), self.cache_bytes)
        self._check = PlaceholderCheck(image_id, lambda media: count_features(hugging, media))
        self._forbidden = torch.tensor(placeholder_ids(model), dtype=torch.long)
        suppress_placeholders(model)
        self._answer_type = 1 if config.model_type == "paligemma" else 0

    def save(self, model: nn.Module, folder: Path, *, merge: bool = False) -> None:
        """Write weights and processor for ``from_pretrained``; LoRA is written as an adapter or merged."""
        self._ready()
        save_model(model, self._processor, Path(folder), merge=merge)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Encode rows with answers; ``row.steps`` is used verbatim where present.

        Raises:
            UserError: naming the row, for an unreadable image, an empty response or a placeholder mismatch.
        """
        encoder = self._ready()
        if not rows:
            raise UserError("there are no rows to collate")
        prompts = [self._prompt(row) for row in rows]
        answers = [encoder.answer(row) for row in rows]
        for row, answer in zip(rows, answers, strict=True):
            self._check_answer(row, answer)
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
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        states = answer_states(model, inputs, mask.shape[1])
        columns = inputs["start"][:, None] + torch.arange(mask.shape[1], device=device)
        tokens = inputs["input_ids"].gather(1, columns.clamp(max=inputs["input_ids"].shape[1] - 1))
        values, spread = step_logp(
            model,
            states[:, :-1][mask],
            tokens[mask],
            temperature=temperature if temperature > 0 else 1.0,
            forbidden=self._banned(device),
            entropy=entropy,
        )
        return LogP(
            values=_scatter(values, mask),
            mask=mask,
            entropy=_scatter(spread, mask) if spread is not None else None,
            hidden=states if hidden else None,
        )

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
        done = []
        for row in rows:
            if row.steps is not None:
                steps = encoder.answer(row)
                text, ends = char_ends(encoder.tokenizer, steps)
            else:
                steps, ends = encoder.answer_offsets(row)
                text = answer_text(row)
            cuts = segment(text, ends, self.granularity)
            done.append(replace(row, completion=text, steps=steps, segments=cuts))
        return done

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """Attach LoRA, to every linear layer of the language model (``all-linear``) or to the named ones."""
        return attach_lora(model, r, alpha, None if target_modules == "all-linear" else target_modules, seed)

    def blank(self, row: Row) -> Row:
        """The same row with mid-grey images of the same size."""
        return replace(row, media=tuple(blank_image(media, row.id) for media in row.media))

    def show(self, row: Row) -> Mapping[str, Any]:
        """``{"images": [png bytes], "text": answer}`` (the prompt where there is no answer)."""
        text = plain_text(row.prompt if row.completion is None else row.completion)
        return {"images": [png_bytes(media, row.id) for media in row.media], "text": text or ""}

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
        prompt = self._ready().prompt(row)
        assert self._check is not None
        self._check(row, prompt)
        return prompt

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
            raise UserError("the vision adapter has no model yet: call load() first")
        return self._encoder


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put ``[N]`` values back where ``mask`` ``[B, T]`` is true, zeros elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
