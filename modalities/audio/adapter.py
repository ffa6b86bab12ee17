"""The audio modality: a MusicGen-type model as a maker of trajectories whose steps are tuples of codes.

A step is one column of the delay pattern: the codes that are drawn at once, which are independent given everything
before them.  Its log-probability is the sum over those codes.  One step per code would serve the policy gradient as
well, but a critic would see the same state several times, the ratio would be clipped code by code though the codes of
a column are one decision, and a piece would have ``K`` times as many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.modalities.audio.answers import AnswerCodes
from mmalign.modalities.audio.captions import CaptionEncoder
from mmalign.modalities.audio.codec import Codec
from mmalign.modalities.audio.loading import load_codec, load_model, load_processor
from mmalign.modalities.audio.options import AudioOptions
from mmalign.modalities.audio.parts import condition, decoder_body, states
from mmalign.modalities.audio.pattern import DelayPattern
from mmalign.modalities.audio.sampling import CodeDraw, draw_codes
from mmalign.modalities.audio.scoring import tuple_logp
from mmalign.modalities.audio.sound import LazyClip, spectrogram_png, wav_bytes
from mmalign.modalities.tokens.forward import unwrap
from mmalign.modalities.tokens.loading import save_model
from mmalign.modalities.tokens.lora import attach_lora, merged
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.modalities.tokens.sampling import uniform_noise
from mmalign.modalities.tokens.towers import TowerCache
from mmalign.types import Batch, LogP, Rollout, Row, Speed

__all__ = ["AudioAdapter"]


class AudioAdapter:
    """Loads, scores, samples and shows a text-to-music model.

    ``row.prompt`` is the caption, ``row.completion`` a sound (a clip, a file, samples), ``row.steps`` its codes
    ``[F][K]``.  An empty caption is the null condition of guidance.

    Args:
        sample_batch: how many answers are drawn at once.
        speed: which short cuts are taken (``cache_towers``: captions through a frozen text encoder are kept).
    """

    name = "audio"
    row_streams = True
    shares_prompts = True

    def __init__(self, *, sample_batch: int = 256, speed: Speed | None = None) -> None:
        self.sample_batch = sample_batch
        self.speed = speed if speed is not None else Speed()
        self.options = AudioOptions()
        self.towers = TowerCache()
        self._processor: Any = None
        self._captions: CaptionEncoder | None = None
        self._pattern: DelayPattern | None = None
        self._answers: AnswerCodes | None = None

    def configure(self, options: Mapping[str, Any]) -> None:
        """Replace the settings; see :class:`~mmalign.modalities.audio.options.AudioOptions`."""
        self.options = AudioOptions.read(options)

    @property
    def codec(self) -> Codec:
        """What turns codes into sound and back."""
        return self._ready().codec

    def load(
        self, source: str, *, device: str = "cpu", dtype: str = "float32", merge: bool = True
    ) -> nn.Module:
        """Load model, tokenizer and codec from a folder or hub name.

        A folder with a LoRA adapter brings its base along, merged, or trainable with ``merge=False``.

        Raises:
            UserError: when the source is missing or is no text-to-music model.
        """
        processor = load_processor(source)
        model = load_model(source, device=device, dtype=dtype, merge=merge)
        self.adopt(model, processor, load_codec(model, source))
        return model

    def adopt(self, model: nn.Module, processor: Any, codec: Codec | None = None) -> None:
        """Use a model and processor that are already in memory; the codec is the model's own where none is given."""
        whole: Any = unwrap(model)
        config = whole.config.decoder
        whole.audio_encoder.requires_grad_(False)  # no gradient reaches a codec through its codes
        self._processor = processor
        self._captions = CaptionEncoder(getattr(processor, "tokenizer", processor))
        self._pattern = DelayPattern.of(config.num_codebooks, config.audio_channels, config.pad_token_id)
        codec = codec if codec is not None else load_codec(model, "")
        self._answers = AnswerCodes(codec, config.num_codebooks, config.vocab_size)

    def save(self, model: nn.Module, folder: Path, *, merge: bool = False) -> None:
        """Write weights, processor and codec for ``from_pretrained``; LoRA is written as an adapter or merged."""
        codec = self._ready().codec
        save_model(model, self._processor, Path(folder), merge=merge)
        if hasattr(codec, "save"):
            codec.save(Path(folder))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Lay answers out in the delay pattern; ``row.steps`` is used verbatim where present.

        Raises:
            UserError: naming the row, for a prompt that is no text, or an answer that is no sound or no codes.
        """
        if not rows:
            raise UserError("there are no rows to collate")
        answers = self._ready()
        assert self._pattern is not None and self._captions is not None
        tokens, valid = self._pattern.delayed([answers(row) for row in rows], self.options.train_codebooks)
        inputs = {**self._captions(rows), "tokens": tokens, "valid": valid}
        return Batch(tuple(rows), inputs, valid.any(1))

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
        """Log-probability ``[B, T]`` (nats) of every tuple of codes at ``temperature`` and the set guidance.

        ``hidden`` are the states of the captioned branch.  ``rng`` is not used: the score is not random.
        """
        device = next(model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        mask, tokens = batch.mask.to(device), inputs["tokens"]
        first = tokens.new_full((*tokens.shape[:2], 1), self._special())
        columns = torch.cat([first, tokens], -1) if hidden else torch.cat([first, tokens[..., :-1]], -1)
        with self._cached_captions(model):
            given = condition(model, inputs["caption_ids"], inputs["caption_mask"])
        captioned, read = states(
            model, given.take(inputs["caption_of"]), columns, self.options.guidance_scale
        )
        values, spread = tuple_logp(
            model,
            read[:, : tokens.shape[-1]],
            tokens,
            inputs["valid"],
            temperature=temperature if temperature > 0 else 1.0,
            entropy=entropy,
            compact=self.speed.compact_head,
        )
        return LogP(values=values, mask=mask, entropy=spread, hidden=captioned if hidden else None)

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
        """Draw ``n`` pieces per row; temperature 0 is greedy (log-probs then are those of temperature 1).

        A piece of ``F`` frames takes ``F + K - 1`` steps (mono), of which there are at most ``max_steps``; it counts as
        finished when it is as long as the settings ask.
        """
        pattern = self._pattern
        answers = self._ready()
        assert pattern is not None
        if not rows or n < 1 or max_steps <= pattern.extra:
            raise UserError(
                f"nothing to sample: {len(rows)} rows, n={n}, max_steps={max_steps}; a piece takes more than "
                f"{pattern.extra} steps"
            )
        frames, whole = self.options.length(answers.codec.frame_rate, max_steps - pattern.extra)
        steps = frames + pattern.extra
        noise = uniform_noise(rng, len(rows), n, steps * pattern.codebooks)
        size = max(1, self.sample_batch // n)
        with self._cached_captions(model), merged(model, self.speed.merge_lora):
            draws = [
                self._draw(model, rows[k : k + size], noise[k * n : (k + size) * n], n, frames, temperature)
                for k in range(0, len(rows), size)
            ]
        codes = torch.cat([draw.codes for draw in draws])
        answered = tuple(
            replace(rows[place // n], completion=LazyClip(answers.codec, piece), steps=piece.tolist())
            for place, piece in enumerate(codes)
        )
        total = len(answered)
        return Rollout(
            answered,
            torch.cat([draw.logp for draw in draws]),
            pattern.valid([frames], steps, self.options.train_codebooks).any(1).expand(total, -1),
            torch.full((total,), whole, dtype=torch.bool),
            torch.arange(len(rows)).repeat_interleave(n),
        )

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """Attach LoRA, to every linear layer of the decoder's blocks (``all-linear``) or to the named ones.

        On the cross-attention alone (``encoder_attn.q_proj`` and so on) the null branch of guidance stays as it is.
        """
        names = target_modules
        if target_modules == "all-linear":
            blocks = {
                id(part) for part in decoder_body(model).layers.modules() if isinstance(part, nn.Linear)
            }
            names = [name for name, part in unwrap(model).named_modules() if id(part) in blocks]
        return attach_lora(model, r, alpha, names, seed)

    def blank(self, row: Row) -> Row:
        """The same row without its caption."""
        return replace(row, prompt="")

    def borrow(self, row: Row, other: Row) -> Row:
        """The same row with another's caption."""
        return replace(row, prompt=other.prompt)

    def show(self, row: Row) -> Mapping[str, Any]:
        """Caption, and where there is an answer its sound (wav bytes) and its spectrogram (png bytes)."""
        shown: dict[str, Any] = {"text": plain_text(row.prompt) or ""}
        if row.completion is not None or row.steps is not None:
            clip = self._ready().clip(row)
            shown |= {"audio": [wav_bytes(clip)], "images": [spectrogram_png(clip)]}
        return shown

    def _draw(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        noise: Tensor,
        n: int,
        frames: int,
        temperature: float,
    ) -> CodeDraw:
        assert self._captions is not None and self._pattern is not None
        device = next(model.parameters()).device
        inputs = {name: value.to(device) for name, value in self._captions(rows).items()}
        with torch.no_grad():
            given = condition(model, inputs["caption_ids"], inputs["caption_mask"])
        given = given.take(inputs["caption_of"])
        return draw_codes(
            model,
            given,
            noise,
            n,
            self._pattern,
            frames,
            temperature=temperature,
            guidance=self.options.guidance_scale,
            counted=self.options.train_codebooks,
        )

    def _cached_captions(self, model: nn.Module) -> AbstractContextManager[None]:
        if not self.speed.cache_towers:
            return nullcontext()
        return self.towers.over(model, unwrap(model).text_encoder)

    def _special(self) -> int:
        assert self._pattern is not None
        return self._pattern.special

    def _ready(self) -> AnswerCodes:
        if self._answers is None:
            raise UserError(f"the {self.name} adapter has no model yet: call load() first")
        return self._answers
