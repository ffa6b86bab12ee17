"""An OpenAI-compatible endpoint as judge: one yes/no question per fact, the picture attached."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import JsonlWriter
from mmalign.feedback.chat import ChatClient
from mmalign.feedback.content import png_bytes
from mmalign.types import Row

__all__ = ["EndpointJudge", "parse_yes_no"]

PROMPT = "Look at the picture and answer with one word, yes, no or unsure.\n{question}"
PAIR = (
    "Two answers to the request: {prompt}\n\nAnswer 1: {first}\n\nAnswer 2: {second}\n\n"
    "Which answer describes the picture more truthfully? Reply with 1 or 2 alone."
)
_WORD = re.compile(r"\b(yes|no|unsure|uncertain|unclear|unknown|cannot|can't)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b([12])\b")


def parse_yes_no(reply: str) -> int | None:
    """+1 for yes, -1 for no, 0 for unsure, ``None`` where the first telling word is missing."""
    found = _WORD.search(reply)
    if found is None:
        return None
    return {"yes": 1, "no": -1}.get(found.group(1).lower(), 0)


class EndpointJudge:
    """Ask a chat endpoint that sees pictures.

    A reply that says neither yes, no nor unsure counts as 0 and in ``unparsed``; every raw reply is
    written to ``reply_log`` where given.

    Args:
        base_url: see ``ChatClient``.
        model: see ``ChatClient``.
        key_env: name of the environment variable that holds the key.
        concurrency: questions in flight at once.
        prompt: text with ``{question}``.
        reply_log: JSON-lines file of raw replies.
        timeout: seconds per request.
        max_retries: tries after the first.
        backoff: seconds before the first retry.
        requests_per_minute: rate limit; 0 for none.
        price_in: price of a million prompt tokens.
        price_out: price of a million completion tokens.
        max_cost: bound of the cost; 0 for none.
    """

    name = "endpoint"

    def __init__(
        self,
        base_url: str = "",
        model: str = "",
        *,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 4,
        prompt: str = PROMPT,
        reply_log: str | Path | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        requests_per_minute: float = 0.0,
        price_in: float = 0.0,
        price_out: float = 0.0,
        max_cost: float = 0.0,
    ) -> None:
        self.client = ChatClient(
            base_url, model, key_env=key_env, timeout=timeout, max_retries=max_retries, backoff=backoff,
            requests_per_minute=requests_per_minute, price_in=price_in, price_out=price_out, max_cost=max_cost,
        )  # fmt: skip
        self.prompt = prompt
        self.version = f"{self.client.model}|{prompt}"
        self.unparsed = 0
        self._log = JsonlWriter(Path(reply_log)) if reply_log else None
        self._pool = ThreadPoolExecutor(max_workers=max(1, concurrency))

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """One label per fact, asked concurrently: -1 no, 0 unsure or unparsed, +1 yes."""
        images = _images(row)
        questions = [fact.question() for fact in facts]
        texts = [self.prompt.replace("{question}", question) for question in questions]
        replies = list(self._pool.map(lambda text: self.client.chat(_messages(text, images)), texts))
        return [self._label(row, question, reply) for question, reply in zip(questions, replies, strict=True)]

    def compare(self, row: Row, first: str, second: str) -> float:
        """Probability that ``first`` is the better answer, as 1, 0, or 0.5 where the reply does not say."""
        text = PAIR.format(prompt=row.prompt, first=first, second=second)
        reply = self.client.chat(_messages(text, _images(row)))
        found = _NUMBER.search(reply)
        self._write(row, text, reply)
        if found is None:
            self.unparsed += 1
            return 0.5
        return 1.0 if found.group(1) == "1" else 0.0

    def ask(self, row: Row, text: str) -> str:
        """The raw reply to a question of one's own, with the row's pictures."""
        reply = self.client.chat(_messages(text, _images(row)))
        self._write(row, text, reply)
        return reply

    def close(self) -> None:
        """Stop the threads and close the log."""
        self._pool.shutdown()
        if self._log is not None:
            self._log.close()

    def _label(self, row: Row, question: str, reply: str) -> int:
        label = parse_yes_no(reply)
        self.unparsed += label is None
        self._write(row, question, reply)
        return label or 0

    def _write(self, row: Row, question: str, reply: str) -> None:
        if self._log is not None:
            self._log.write({"id": row.id, "question": question, "reply": reply, "judge": self.version})


def _images(row: Row) -> list[dict[str, Any]]:
    urls = [f"data:image/png;base64,{base64.b64encode(png_bytes(item)).decode()}" for item in row.media]
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def _messages(text: str, images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
