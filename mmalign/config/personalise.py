"""The section of stage ``personalise``: a new word for one thing, from a few answers that show it (ClassDiffusion)."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from mmalign.config.fields import Count, NonNegative, Positive, PositiveCount, Section, Share

__all__ = ["PersonaliseConfig"]


class PersonaliseConfig(Section):
    """A new word and the layers that read prompts learn from the rows' answers; everything else keeps its weights."""

    max_steps: Count = 500
    """Optimiser steps; 0 skips the stage."""
    word: str = "<new>"
    """The new word; the model must not know it yet."""
    class_word: str = ""
    """The known word (or words) for the class the thing belongs to."""
    start_word: str | None = None
    """Known words that the new word starts from; null is ``class_word``.  The paper's code takes a rare word, which the
    semantic loss has to bring to the class; from the class itself there is little for it to do."""
    prompt: str = "a photo of a {word} {class}"
    """Prompt of the rows' answers, with ``{word}``."""
    class_prompt: str = "a photo of a {class}"
    """Prompt whose meaning is kept, and of the class's own answers."""
    semantic_weight: NonNegative = 0.5
    """Weight of the semantic preservation loss beside the mean negative score of the answers; 0 for none.  A denoising
    score is half the squared error, so 0.5 is the paper's 1."""
    prior_weight: NonNegative = 1.0
    """Weight of the class's own answers, where there are some."""
    n_prior: Count = 0
    """Answers to ``class_prompt`` drawn from the start model, which it must go on giving (prior preservation)."""
    per_device_train_batch_size: PositiveCount = 2
    """Answers (and as many of the class's own) per forward pass and process."""
    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    warmup_ratio: Share = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of the layers and of the new word's embedding; no other word is touched."""
    save_steps: PositiveCount = 50
    """Write a checkpoint every so many steps."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "{word}" not in self.prompt:
            raise ValueError(f"prompt: expected {{word}} in the text, got {self.prompt!r}")
        if "{word}" in self.class_prompt:
            raise ValueError(f"class_prompt: names the new word, got {self.class_prompt!r}")
        return self

    def filled(self, prompt: str) -> str:
        """A prompt with the new word and the class put in."""
        return prompt.replace("{word}", self.word).replace("{class}", self.class_word)
