"""Tiny randomly initialised causal language models of real families, with real tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "Say something nice . A cat , a dog ; and a bird ! user assistant system question answer",
    "there is a red circle . the circle is left of the blue square .",
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
BASE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NAMES = ("llama", "qwen3", "gpt2", "mistral", "gemma2")
NO_TEMPLATE = ("gpt2",)


def tokenizer(name: str) -> hf.PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer; for gpt2 the pad token is the end token and there is no chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    pad = "</s>" if name in NO_TEMPLATE else "<pad>"
    made = hf.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token=pad)
    if name not in NO_TEMPLATE:
        made.chat_template = TEMPLATE
    return made


def config(name: str, vocab: int) -> Any:
    """The family's configuration in small."""
    if name == "gpt2":
        return hf.GPT2Config(
            vocab_size=vocab, n_embd=48, n_layer=2, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2
        )
    kinds = {
        "llama": (hf.LlamaConfig, {}),
        "qwen3": (hf.Qwen3Config, {"head_dim": 12}),
        "mistral": (hf.MistralConfig, {"sliding_window": 24}),
        "gemma2": (hf.Gemma2Config, {"head_dim": 12, "sliding_window": 64, "query_pre_attn_scalar": 12}),
    }
    kind, more = kinds[name]
    return kind(vocab_size=vocab, **BASE, **more)


def build(name: str, root: Path) -> Path:
    """Write the family's model and tokenizer to ``root/name``."""
    folder = root / name
    made = tokenizer(name)
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config(name, len(made)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
