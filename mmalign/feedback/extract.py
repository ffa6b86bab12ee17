"""A chat model as extractor of atomic facts, for texts without a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mmalign.feedback.chat import ChatClient
from mmalign.feedback.facts import Fact
from mmalign.feedback.labels import FACT_TYPES

__all__ = ["EndpointExtractor", "parse_facts"]

PROMPT = """Split each numbered part of a picture's description into atomic facts.
object: "there is a dog"; attribute: colour, size, number, state of one thing; relation: of two things.
Write each fact as a short statement that can be checked by itself (put names in the place of "it").
Reply with JSON alone, one entry per part, in order:
[{"object": [...], "attribute": [...], "relation": [...]}, ...]

"""
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


class EndpointExtractor:
    """Ask an OpenAI-compatible chat model for the facts of every segment of an answer.

    A reply that is no JSON list of the right length is asked for again part by part; a part whose
    reply still cannot be read has no facts and counts in ``unparsed``.

    Args:
        base_url: see ``ChatClient``; the environment's ``MMALIGN_ENDPOINT`` where empty.
        model: see ``ChatClient``.
        client: a client in the place of a new one.
    """

    def __init__(self, base_url: str = "", model: str = "", client: ChatClient | None = None) -> None:
        self.client = client or ChatClient(base_url, model)
        self.unparsed = 0
        self._known: dict[tuple[str, ...], list[list[Fact]]] = {}

    def extract(self, text: str) -> list[list[Fact]]:
        """One list of facts per sentence of ``text``."""
        return self.extract_segments([part.strip() for part in _SENTENCE.findall(text) if part.strip()])

    def extract_segments(self, texts: Sequence[str]) -> list[list[Fact]]:
        """One list of facts per segment, the whole answer in sight; equal answers are asked once."""
        key = tuple(texts)
        if key and key not in self._known:
            self._known[key] = self._ask(key)
        return [list(facts) for facts in self._known.get(key, [])]

    def _ask(self, texts: tuple[str, ...]) -> list[list[Fact]]:
        numbered = "\n".join(f"{k}. {text}" for k, text in enumerate(texts, start=1))
        reply = self.client.chat(
            [{"role": "user", "content": PROMPT + numbered}], max_tokens=200 * len(texts)
        )
        found = parse_facts(reply, len(texts))
        if found is not None:
            return found
        if len(texts) > 1:
            return [facts for text in texts for facts in self._ask((text,))]
        self.unparsed += 1
        return [[]]


def parse_facts(reply: str, n: int) -> list[list[Fact]] | None:
    """Read ``n`` lists of facts from a reply that may hold prose or code fences; ``None`` if it cannot.

    Args:
        reply: what the model said.
        n: number of parts asked about.
    """
    value = _first_json(reply)
    if isinstance(value, dict):
        inner = [
            item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)
        ]
        value = inner[0] if inner else [value]
    if not isinstance(value, list) or len(value) != n or not all(isinstance(item, dict) for item in value):
        return None
    return [_facts(item) for item in value]


def _first_json(reply: str) -> Any:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[\[{]", reply):
        try:
            return decoder.raw_decode(reply, match.start())[0]
        except ValueError:
            continue
    return None


def _facts(item: dict[str, Any]) -> list[Fact]:
    found = []
    for kind in FACT_TYPES:
        texts = item.get(kind, item.get(f"{kind}s", []))
        for text in [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []:
            plain = " ".join(str(text).split())
            if plain:
                found.append(Fact(kind, (plain.lower().rstrip("."),), plain))
    return found
