"""The toy modality: a vector to look at, a few integers as prompt, words as answer.

It offers every capability the core can ask for and runs in milliseconds, so engine, pipeline and
plug-in tests need neither pictures nor downloads.  The right answer of a row names what the vector
shows and what the prompt says, one segment each: ``"b . e ."``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.testing.toy_model import MEDIA_SIZE, VOCABULARY, ToyPolicy
from mmalign.types import Batch, LogP, Rollout, Row, Segment, StepReward

__all__ = ["ToyAdapter", "ToyReward", "toy_answer", "toy_rows"]

_PAD, _EOS, _SEPARATOR = 0, 1, 2
_FIRST_WORD = 3
_CLASSES = 3


def toy_answer(row: Row) -> str:
    """The right answer of a toy row."""
    return f"{VOCABULARY[_FIRST_WORD + row.meta['seen']]} . {VOCABULARY[_FIRST_WORD + _CLASSES + row.meta['said']]} ."


def toy_rows(n: int, seed: int = 0) -> list[Row]:
    """``n`` rows with a right ``completion`` and a ``chosen``/``rejected`` pair; prompts vary in length."""
    rng = numpy_generator(seed, "toy")
    rows = []
    for k in range(n):
        seen, said = int(rng.integers(_CLASSES)), int(rng.integers(_CLASSES))
        media = np.zeros(MEDIA_SIZE, dtype=np.float32)
        media[seen] = 1.0
        media += rng.normal(0.0, 0.05, MEDIA_SIZE).astype(np.float32)
        prompt = [_FIRST_WORD + 6] * int(rng.integers(3)) + [_FIRST_WORD + _CLASSES + said]
        row = Row(id=f"toy-{seed}-{k}", prompt=prompt, media=(media,), meta={"seen": seen, "said": said})
        wrong = replace(row, meta={"seen": (seen + 1) % _CLASSES, "said": said})
        right = toy_answer(row)
        rows.append(replace(row, completion=right, chosen=right, rejected=toy_answer(wrong)))
    return rows


class ToyAdapter:
    """Likelihood, Samples, Conditioned, Foresees, Tunes and Shows over :class:`ToyPolicy`."""

    name = "toy"

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        """Load a saved folder, or ``toy:SEED`` for a fresh model.

        Raises:
            UserError: when ``source`` is neither.
        """
        head, _, seed = source.partition(":")
        file = Path(source) / "model.safetensors"
        if head == "toy":
            model = ToyPolicy(seed=int(seed or 0))
        elif file.is_file():
            config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
            model = ToyPolicy(hidden_size=config["hidden_size"])
            model.load_state_dict(load_file(file))
        else:
            raise UserError(f'{source}: expected a folder with model.safetensors, or "toy:SEED"')
        return model.to(device=device, dtype=getattr(torch, dtype)).eval()

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json``; an attached LoRA is merged in."""
        if hasattr(model, "merge_and_unload"):
            model = copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(json.dumps({"hidden_size": model.hidden_size}), encoding="utf-8")

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Tokens of prompt and answer, right-padded; the model starts each row with a pad token."""
        prompts = [[_PAD, *_prompt_tokens(row)] for row in rows]
        answers = [_answer_tokens(row) for row in rows]
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        tokens = torch.full((len(rows), width), _PAD)
        steps = torch.zeros(len(rows), max(map(len, answers)), dtype=torch.long)
        mask = torch.zeros(steps.shape, dtype=torch.bool)
        for k, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            tokens[k, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            steps[k, : len(answer)] = torch.tensor(answer)
            mask[k, : len(answer)] = True
        start = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return Batch(
            tuple(rows), {"tokens": tokens, "steps": steps, "start": start, "media": _media(rows)}, mask
        )

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
        """Log-probabilities ``[B, T]`` in nats of the answers; hidden states ``[B, T + 1, H]``."""
        device = next(model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        mask = batch.mask.to(device)
        states, logits = model(inputs["tokens"], _typed(inputs["media"], model))
        at = inputs["start"][:, None] + torch.arange(mask.shape[1] + 1, device=device)
        at = at.clamp(max=states.shape[1] - 1)
        rows = torch.arange(len(batch), device=device)[:, None]
        scores = torch.log_softmax(logits[rows, at[:, :-1]] / (temperature or 1.0), dim=-1)
        values = scores.gather(-1, inputs["steps"][..., None]).squeeze(-1)
        return LogP(
            values=torch.where(mask, values, 0.0),
            mask=mask,
            entropy=torch.where(mask, -(scores.exp() * scores).sum(-1), 0.0) if entropy else None,
            hidden=states[rows, at] if hidden else None,
        )

    def logp_foreseen(
        self, model: nn.Module, batch: Batch, blend: float, rng: torch.Generator | None = None
    ) -> LogP:
        """:meth:`logp` with each answer token blended with the model's greedy prediction of it."""
        device = next(model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        tokens, mask, media = inputs["tokens"], batch.mask.to(device), _typed(inputs["media"], model)
        with torch.no_grad():
            predicted = model(tokens, media)[1].argmax(-1)
        shifted = torch.cat([tokens[:, :1], predicted[:, :-1]], 1)
        place = torch.arange(tokens.shape[1], device=device)[None]
        foreseen = torch.where(place > inputs["start"][:, None], shifted, tokens)
        logits = model(tokens, media, foreseen=foreseen, blend=blend)[1]
        at = inputs["start"][:, None] + torch.arange(mask.shape[1], device=device)
        scores = torch.log_softmax(logits.gather(1, _columns(at, logits)), dim=-1)
        values = scores.gather(-1, inputs["steps"][..., None]).squeeze(-1)
        return LogP(values=torch.where(mask, values, 0.0), mask=mask)

    @torch.no_grad()
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
        """Draw ``n`` answers per row, with segments ended by ``"."``; stops at ``<eos>``."""
        device = next(model.parameters()).device
        rows = [row for row in rows for _ in range(n)]
        prompts = self.collate([replace(row, completion="", steps=[_EOS]) for row in rows])
        tokens, start = prompts.inputs["tokens"].to(device), prompts.inputs["start"].to(device)
        states, logits = model(tokens, _typed(prompts.inputs["media"].to(device), model))
        every = torch.arange(len(rows), device=device)
        state, scores = states[every, start], logits[every, start]
        alive = torch.ones(len(rows), dtype=torch.bool, device=device)
        drawn, logps, masks = [], [], []
        for _ in range(max_steps):
            step, logp = _draw(scores, temperature, rng)
            drawn.append(step)
            logps.append(torch.where(alive, logp, 0.0))
            masks.append(alive)
            alive = alive & (step != _EOS)
            if not alive.any():
                break
            states, logits = model(step[:, None], state=state)
            state, scores = states[:, 0], logits[:, 0]
        steps, mask = torch.stack(drawn, 1), torch.stack(masks, 1)
        group = torch.arange(len(rows), device=device) // n
        answered = tuple(_answered(row, steps[k][mask[k]].tolist()) for k, row in enumerate(rows))
        return Rollout(answered, torch.stack(logps, 1), mask, ~alive, group)

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """LoRA on the two linear layers (``all-linear``) or on the named ones."""
        from peft import LoraConfig, get_peft_model

        names = ["see", "read"] if target_modules == "all-linear" else list(target_modules)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuned: nn.Module = get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, target_modules=names))
        return tuned.eval()

    def blank(self, row: Row) -> Row:
        """The row with a vector of zeros."""
        return replace(row, media=tuple(np.zeros_like(item) for item in row.media))

    def show(self, row: Row) -> Mapping[str, Any]:
        """The prompt, vector and answer as text."""
        return {
            "text": f"{row.prompt} {[np.round(item, 2).tolist() for item in row.media]} -> {row.completion}"
        }


class ToyReward:
    """+1 at the end of a right segment and -1 at the end of a wrong one; at most two segments count."""

    def __call__(self, rollout: Rollout) -> StepReward:
        """Compare each segment with the row's right answer."""
        total = torch.zeros_like(rollout.logp)
        for k, row in enumerate(rollout.rows):
            wanted = [part.strip() for part in toy_answer(row).split(".")][:2]
            for place, segment in enumerate(row.segments[:2]):
                right = segment.text.removesuffix(".").strip() == wanted[place]
                total[k, segment.end - 1] += 1.0 if right else -1.0
        return StepReward(total, {"toy": total.clone()})


def _prompt_tokens(row: Row) -> list[int]:
    words = row.prompt.split() if isinstance(row.prompt, str) else row.prompt
    return [VOCABULARY.index(word) if isinstance(word, str) else int(word) for word in words]


def _answer_tokens(row: Row) -> list[int]:
    if row.steps is not None:
        return [int(step) for step in row.steps]
    if row.completion is None:
        raise UserError(f"row {row.id}: it has no completion and no steps, so there is nothing to score")
    words = str(row.completion).split()
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise UserError(
            f"row {row.id}: {unknown[0]!r} is not a word of the toy modality ({' '.join(VOCABULARY[2:])})"
        )
    return [*map(VOCABULARY.index, words), _EOS]


def _media(rows: Sequence[Row]) -> Tensor:
    vectors = [row.media[0] if row.media else np.zeros(MEDIA_SIZE) for row in rows]
    return torch.tensor(np.stack(vectors), dtype=torch.float32)


def _columns(at: Tensor, logits: Tensor) -> Tensor:
    return at.clamp(max=logits.shape[1] - 1)[..., None].expand(-1, -1, logits.shape[-1])


def _typed(media: Tensor, model: nn.Module) -> Tensor:
    return media.to(next(model.parameters()).dtype)


def _draw(logits: Tensor, temperature: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    scores = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    if temperature == 0:
        step = scores.argmax(-1)
    else:
        step = torch.multinomial(scores.exp().cpu(), 1, generator=rng).squeeze(-1).to(logits.device)
    return step, scores.gather(-1, step[:, None]).squeeze(-1)


def _answered(row: Row, steps: list[int]) -> Row:
    segments: list[Segment] = []
    start, text = 0, ""
    for k, step in enumerate(steps):
        if step == _EOS:
            break
        text += (" " if text else "") + VOCABULARY[step]
        if step == _SEPARATOR or k + 1 == len(steps) or steps[k + 1] == _EOS:
            before = segments[-1].char_end + 1 if segments else 0
            segments.append(Segment(start, k + 1, text[before:], before, len(text)))
            start = k + 1
    return replace(row, completion=text, steps=steps, segments=tuple(segments))
