"""Music rollouts: mmalign's loop over tuples of codes against ``transformers.generate`` on equal weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from mmalign import registry
from mmalign.bench.definition import Bench, Case, Comparison, Step
from mmalign.benchmarks.bench.models import word_tokenizer
from mmalign.types import Row

__all__ = ["BENCH", "MusicSetting"]

WORDS, CAPTION = 64, 12
"""Words of the vocabulary and of a caption."""


@dataclass(frozen=True)
class MusicSetting:
    """A MusicGen with random weights and captions; calling it builds the named variants.

    Equality is checked on greedy codes, also for the sampling variants: what one draws depends on one's own noise.

    Args:
        hidden: width of the decoder.
        layers: its blocks.
        books: codebooks.
        codes: entries of each.
        frames: tuples of codes per piece.
        captions: different captions.
        n: pieces per caption.
        guidance: scale of classifier-free guidance.
    """

    hidden: int
    layers: int
    books: int
    codes: int
    frames: int
    captions: int
    n: int
    guidance: float = 1.0

    @property
    def text(self) -> str:
        """The setting in words."""
        guided = f", guidance {self.guidance:g}" if self.guidance != 1 else ""
        return (
            f"MusicGen {self.hidden} x {self.layers}, {self.books} codebooks of {self.codes}; {self.captions} "
            f"caption(s), {self.n} piece(s) each of {self.frames} frames{guided}"
        )

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name."""
        model, tokenizer = self._model(), word_tokenizer(WORDS)
        rng = torch.Generator().manual_seed(0)
        texts = [
            " ".join(f"w{int(k)}" for k in torch.randint(40, (CAPTION,), generator=rng))
            for _ in range(self.captions)
        ]
        makers = {"hf": self._hf, "mmalign": self._ours}
        return {
            name: makers[name.split("-")[0]](model, tokenizer, texts, greedy=name.endswith("greedy"))
            for name in names
        }

    def _model(self) -> Any:
        heads = self.hidden // 32
        text = hf.T5Config(
            vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0
        )
        codec = hf.EncodecConfig(
            codebook_size=2048, num_filters=2, hidden_size=8, codebook_dim=8, num_lstm_layers=1
        )
        decoder = hf.MusicgenDecoderConfig(
            vocab_size=self.codes, hidden_size=self.hidden, ffn_dim=4 * self.hidden, num_hidden_layers=self.layers,
            num_attention_heads=heads, num_codebooks=self.books, max_position_embeddings=self.frames + self.books,
            pad_token_id=self.codes, bos_token_id=self.codes, dropout=0.0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = hf.MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
            model = hf.MusicgenForConditionalGeneration(config).eval()
            for parameter in model.decoder.lm_heads.parameters():
                torch.nn.init.normal_(
                    parameter
                )  # random heads of the usual size would make greedy answers a tie
        chosen = model.generation_config
        chosen.pad_token_id = chosen.bos_token_id = chosen.decoder_start_token_id = self.codes
        return model

    def _hf(self, model: Any, tokenizer: Any, texts: Sequence[str], *, greedy: bool) -> Step:
        given = tokenizer(list(texts), padding=True, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        inputs = {name: given[name].repeat_interleave(self.n, 0) for name in names}
        state: dict[str, Tensor] = {}

        def keep(codes: Tensor, *args: Any, **kwargs: Any) -> Any:
            state["tokens"] = codes[0].transpose(1, 2)
            return SimpleNamespace(audio_values=codes)

        def run(sample: bool) -> None:
            kind: dict[str, Any] = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
            steps = self.frames + self.books - 1
            model.audio_encoder.decode = keep  # sound is left out on both sides
            model.generate(**inputs, **kind, max_new_tokens=steps, guidance_scale=self.guidance)

        def outcome() -> Mapping[str, Tensor]:
            if not greedy:
                run(False)
            return state

        return Step(lambda _: run(not greedy), outcome)

    def _ours(self, model: Any, tokenizer: Any, texts: Sequence[str], *, greedy: bool) -> Step:
        adapter = registry.load("modalities", "audio")()
        adapter.adopt(model, tokenizer)
        adapter.configure({"guidance_scale": self.guidance})
        rows = [Row(str(k), text) for k, text in enumerate(texts)]

        def codes(temperature: float) -> Tensor:
            rng = torch.Generator().manual_seed(0)
            steps = self.frames + self.books - 1
            rollout = adapter.sample(model, rows, self.n, rng, temperature=temperature, max_steps=steps)
            return torch.tensor([row.steps for row in rollout.rows])

        state: dict[str, Tensor] = {}

        def run(_: Any) -> None:
            state["tokens"] = codes(0.0 if greedy else 1.0)

        return Step(run, lambda: state if greedy else {"tokens": codes(0.0)})


def _case(name: str, setting: MusicSetting, *, quick: bool = False) -> Case:
    variants = {
        "hf-greedy": "transformers generate, greedy, one row per piece",
        "mmalign-greedy": "mmalign, greedy, log-probabilities included",
        "hf-sample": "transformers generate, sampled at temperature 1, one row per piece",
        "mmalign-sample": "mmalign, sampled at temperature 1, log-probabilities included",
    }
    ratios = (Comparison("hf-greedy", "mmalign-greedy"), Comparison("hf-sample", "mmalign-sample"))
    return Case(name, setting.text, variants, setting, ratios, rounds=5, quick=quick)


_EMBEDDED = {"hidden": 128, "layers": 4, "books": 6, "codes": 256, "frames": 25}

BENCH = Bench(
    name="music_rollout",
    title="Drawing music: mmalign against transformers generate",
    cases=(
        _case("quick", MusicSetting(128, 2, 4, 256, frames=12, captions=2, n=4), quick=True),
        _case("embedded", MusicSetting(**_EMBEDDED, captions=16, n=8)),
        _case("embedded-guided", MusicSetting(**_EMBEDDED, captions=16, n=8, guidance=3.0)),
        _case("long-guided", MusicSetting(256, 6, 4, 2048, frames=100, captions=2, n=4, guidance=3.0)),
        _case("one", MusicSetting(256, 6, 4, 2048, frames=50, captions=1, n=1)),
    ),
    headline=("embedded-guided", "hf-sample / mmalign-sample"),
    quick_headline=("quick", "hf-sample / mmalign-sample"),
    needs={"transformers": "pip install 'transformers>=5'"},
    notes=(
        "codes only: neither side decodes sound",
        "greedy codes are equal; generate gives no log-probabilities here, mmalign does",
    ),
)
"""The benchmark, found through the registry as ``music_rollout``."""
