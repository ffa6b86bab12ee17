"""A new word in a pipeline's text encoders: its embedding and the keys and values that read prompts train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.modalities.diffusion.policy import DiffusionPolicy

__all__ = ["learn_word", "prompt_states", "words_written"]

_READS_PROMPTS = (".attn2.to_k.weight", ".attn2.to_v.weight")


class _NewWord(nn.Module):
    """Lookup that answers ``token`` with a vector of its own, and everything else with the frozen table."""

    def __init__(self, table: nn.Embedding, token: int, start: Tensor) -> None:
        super().__init__()
        self.table, self.token = table, token
        self.row = nn.Parameter(start.clone())

    @property
    def weight(self) -> Tensor:
        """The table with the row written in (a copy); some encoders read its dtype and device."""
        table = self.table.weight.detach().clone()
        table[self.token] = self.row.detach().to(table)
        return table

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings ``[..., D]``."""
        known = self.table(ids)
        return torch.where((ids == self.token)[..., None], self.row.to(known.dtype), known)


def learn_word(policy: DiffusionPolicy, word: str, like: str) -> None:
    """Add ``word`` to every CLIP encoder, starting from the mean embedding of ``like``; freeze all but what learns it.

    What trains is the new vector and the keys and values of the attention on prompts.  All other words' vectors are in
    a table without gradient that no optimiser sees, so they stay bit for bit.

    *Reference:* Kumari et al., Custom Diffusion (2023), arXiv:2212.04488, as ClassDiffusion (arXiv:2405.17532) uses it.
    *Differs from their code:* it gives the optimiser the whole table with zeroed gradients, which weight decay still
    shrinks; and the word starts from its class, not from a rare word.

    Raises:
        UserError: where the word is known, the class is not, or encoders or attention are of another kind.
    """
    policy.requires_grad_(False)
    for name, encoder, tokenizer in _encoders(policy):
        known = tokenizer(like, add_special_tokens=False).input_ids
        if not known or tokenizer.unk_token_id in known:
            raise UserError(f"{name}: does not know {like!r}, from which the new word is to start")
        said = tokenizer(word, add_special_tokens=False).input_ids
        if (len(said) == 1 and said[0] != tokenizer.unk_token_id) or tokenizer.add_tokens([word]) != 1:
            raise UserError(f"{name}: knows {word!r} already; choose another word")
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings()
        token = int(tokenizer.convert_tokens_to_ids(word))
        start = table.weight.detach()[known].mean(0)
        with torch.no_grad():
            table.weight[token] = start
        encoder.set_input_embeddings(_NewWord(table, token, start))
        encoder.get_input_embeddings().table.requires_grad_(False)
    readers = [p for n, p in policy.backbone.denoiser.named_parameters() if n.endswith(_READS_PROMPTS)]
    if not readers:
        raise UserError(
            f"{type(policy.backbone).__name__}: has no attention on prompts apart from that on the picture (attn2), "
            "which personalisation trains"
        )
    for parameter in readers:
        parameter.requires_grad_(True)


def prompt_states(policy: DiffusionPolicy, prompts: Sequence[str]) -> Tensor:
    """What the text encoders make of whole prompts ``[B, D]``: the last state at the first end token.

    The place is looked up, not left to the encoder: older CLIP configurations pool at the **highest** id, which is the
    new word's.  Of several encoders the unit vectors stand side by side, so a cosine is the mean of theirs.
    """
    states = []
    for _, encoder, tokenizer in _encoders(policy):
        coded = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").to(
            policy.device
        )
        hidden = encoder(input_ids=coded.input_ids).last_hidden_state
        ends = (coded.input_ids == tokenizer.eos_token_id).int().argmax(1)
        states.append(
            nn.functional.normalize(hidden[torch.arange(len(hidden), device=hidden.device), ends], dim=-1)
        )
    return torch.cat(states, -1)


@contextmanager
def words_written(policy: DiffusionPolicy) -> Iterator[None]:
    """Put learnt words into plain tables for a while, as the owner library saves and loads them."""
    learnt = [(encoder, encoder.get_input_embeddings()) for _, encoder, _ in _encoders(policy, strict=False)]
    learnt = [(encoder, found) for encoder, found in learnt if isinstance(found, _NewWord)]
    for encoder, found in learnt:
        with torch.no_grad():
            found.table.weight[found.token] = found.row.detach().to(found.table.weight.dtype)
        encoder.set_input_embeddings(found.table)
    try:
        yield
    finally:
        for encoder, found in learnt:
            encoder.set_input_embeddings(found)


def _encoders(policy: DiffusionPolicy, *, strict: bool = True) -> list[tuple[str, Any, Any]]:
    """Name, encoder and tokenizer of every text encoder; ``strict`` refuses those that are not CLIP's."""
    pipeline, found = policy.backbone.pipeline, []
    for name in policy.backbone.text:
        encoder = getattr(pipeline, name, None)
        if not isinstance(encoder, nn.Module):
            continue
        kind = str(getattr(encoder.config, "model_type", ""))  # type: ignore[union-attr]
        if not kind.startswith("clip"):
            if strict:
                raise UserError(
                    f"{name}: is a {kind or 'text'} encoder; a new word can be learnt in CLIP's alone"
                )
            continue
        found.append((name, encoder, getattr(pipeline, name.replace("text_encoder", "tokenizer"))))
    return found
