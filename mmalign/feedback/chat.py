"""A small client for OpenAI-compatible chat endpoints: retries, rate limit, token and cost count.

The key is read from an environment variable at each request; it is never stored, logged, shown in an
error or sent on after a redirect, and it does not travel over plain http except to this machine.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmalign.errors import UserError

__all__ = ["ChatClient", "Usage"]

LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(slots=True)
class Usage:
    """What the endpoint was asked and what it cost (in the currency of the given prices)."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def as_dict(self) -> dict[str, float]:
        """The counts as plain numbers."""
        names = ("requests", "retries", "prompt_tokens", "completion_tokens", "cost")
        return {name: getattr(self, name) for name in names}


class ChatClient:
    """Post messages to ``<base_url>/chat/completions`` and return the text of the first choice.

    Tried again: 408, 409, 425, 429, 5xx, time-outs, broken connections and malformed replies, with
    doubling waits (``Retry-After`` is honoured).  Any other status stops with one sentence.

    Args:
        base_url: for example ``https://host/v1``; environment ``MMALIGN_ENDPOINT`` where empty.
        model: model name; environment ``MMALIGN_ENDPOINT_MODEL`` where empty.
        key_env: name of the environment variable that holds the key.
        timeout: seconds per request.
        max_retries: tries after the first.
        backoff: seconds before the first retry.
        max_wait: upper bound of any wait in seconds.
        requests_per_minute: rate limit over all threads; 0 for none.
        price_in: price of a million prompt tokens.
        price_out: price of a million completion tokens.
        max_cost: stop before the next request when the cost has reached this; 0 for no bound.

    Raises:
        UserError: when URL or model is missing, or a key would travel unencrypted.
    """

    def __init__(
        self,
        base_url: str = "",
        model: str = "",
        *,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        requests_per_minute: float = 0.0,
        price_in: float = 0.0,
        price_out: float = 0.0,
        max_cost: float = 0.0,
    ) -> None:
        self.base_url = (base_url or os.environ.get("MMALIGN_ENDPOINT", "")).rstrip("/")
        self.model = model or os.environ.get("MMALIGN_ENDPOINT_MODEL", "")
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(
                f"base_url: expected http(s)://host/v1 (or MMALIGN_ENDPOINT), found {self.base_url!r}."
            )
        if not self.model:
            raise UserError("model: expected the endpoint's model name (or MMALIGN_ENDPOINT_MODEL).")
        self._local = url.hostname in LOCAL
        if url.scheme == "http" and not self._local and os.environ.get(key_env):
            raise UserError(
                f"base_url: {self.base_url} is plain http, over which the key would travel unprotected."
            )
        self.key_env, self.timeout, self.max_retries = key_env, timeout, max_retries
        self.backoff, self.max_wait, self.max_cost = backoff, max_wait, max_cost
        self.price_in, self.price_out = price_in, price_out
        self._gap = 60.0 / requests_per_minute if requests_per_minute > 0 else 0.0
        self._next = 0.0
        self.usage = Usage()
        self._opener = urllib.request.build_opener(_NoRedirect())

    def chat(self, messages: Sequence[Mapping[str, Any]], max_tokens: int = 16) -> str:
        """Return the reply to ``messages`` at temperature 0.

        Raises:
            UserError: when the endpoint refuses or does not answer in time; nothing already
                collected is lost, and the same command goes on.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        data = json.dumps(body).encode()
        problem = ""
        for attempt in range(self.max_retries + 1):
            self._check_cost()
            self._wait_turn()
            try:
                return self._once(data)
            except _Retry as error:
                problem = error.reason
                wait = max(error.after, self.backoff * 2**attempt)
            if attempt < self.max_retries:
                with self.usage.lock:
                    self.usage.retries += 1
                time.sleep(min(wait, self.max_wait))
        tries = f"{self.max_retries + 1} tries ({problem})"
        raise UserError(f"{self.base_url}: no usable answer after {tries}; run the command again to go on.")

    def _once(self, data: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_env, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        elif not self._local:
            raise UserError(f"{self.base_url}: the environment variable {self.key_env} holds no key.")
        request = urllib.request.Request(f"{self.base_url}/chat/completions", data, headers, method="POST")
        with self.usage.lock:
            self.usage.requests += 1
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(response.read())
        except urllib.error.HTTPError as error:
            with error:
                status, after = error.code, _seconds(error.headers.get("Retry-After"))
            if status in (408, 409, 425, 429) or status >= 500:
                raise _Retry(f"status {status}", after) from None
            raise UserError(f"{self.base_url}: the endpoint refused with status {status}.") from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Retry(type(reason).__name__ if isinstance(reason, Exception) else str(reason)) from None

    def _read(self, raw: bytes) -> str:
        try:
            reply = json.loads(raw)
            text = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            used_in, used_out = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Retry("malformed reply") from None
        if not isinstance(text, str):
            raise _Retry("reply without text")
        with self.usage.lock:
            self.usage.prompt_tokens += used_in
            self.usage.completion_tokens += used_out
            self.usage.cost += (used_in * self.price_in + used_out * self.price_out) / 1e6
        return text

    def _check_cost(self) -> None:
        if self.max_cost and self.usage.cost >= self.max_cost:
            raise UserError(
                f"max_cost: {self.usage.cost:.4g} of {self.max_cost:.4g} are spent; raise it to go on."
            )

    def _wait_turn(self) -> None:
        if not self._gap:
            return
        with self.usage.lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self._gap
        time.sleep(max(turn - now, 0.0))


class _Retry(Exception):
    """A failure worth another try."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects: they would carry the key to another host."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        return None


def _seconds(value: str | None) -> float:
    """Seconds named by ``Retry-After``, a number or a date; 0 where there is none."""
    if not value:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0
