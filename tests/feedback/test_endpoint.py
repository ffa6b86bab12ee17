"""The endpoint client against a stub server: failures, limits, cost, secrets, and the parsers."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmalign.errors import UserError
from mmalign.feedback.chat import ChatClient
from mmalign.feedback.collect import collect
from mmalign.feedback.extract import EndpointExtractor, parse_facts
from mmalign.feedback.facts import Fact
from mmalign.feedback.judges import EndpointJudge
from mmalign.feedback.judges.endpoint import parse_yes_no
from mmalign.feedback.pairwise import OrderSwapped
from tests.feedback.build import WordExtractor, row
from tests.feedback.stub import Answer, says, serve

ROW = row("a", "o:cat a:red .", color=200)
KEY = "sk-very-secret"
FACTS = [Fact("object", (name,), name) for name in ("cat", "dog", "cow", "hen")]


def client(url: str, **options: Any) -> ChatClient:
    return ChatClient(url, "m", **{"backoff": 0.01, "timeout": 5.0, **options})


def ask(chat: ChatClient) -> str:
    return chat.chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "failure",
    [
        (429, "slow down", {"Retry-After": "0.05"}),
        (500, "oops", {}),
        (503, "", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        (200, "<html>", {}),
        (200, '{"choices": []}', {}),
        (200, '{"choices": [{"message": {"content": null}}]}', {}),
        (0, "", {}),
        (-1, "", {}),
    ],
)
def test_passing_failures_are_tried_again(failure: Answer) -> None:
    with serve(lambda number, body: failure if number < 2 else says("fine")) as stub:
        chat = client(stub.url, timeout=0.3)
        assert ask(chat) == "fine"
        assert chat.usage.retries == 2 and chat.usage.requests == 3
        if "Retry-After" in failure[2] and failure[0] == 429:
            assert stub.times[1] - stub.times[0] >= 0.05


def test_lasting_failures_stop_with_one_sentence() -> None:
    with serve(lambda number, body: (500, "x", {})) as stub:
        with pytest.raises(UserError, match=r"after 3 tries \(status 500\)"):
            ask(client(stub.url, max_retries=2))
    with serve(lambda number, body: (401, "bad key", {})) as stub:
        with pytest.raises(UserError, match="refused with status 401"):
            ask(client(stub.url))
        assert len(stub.bodies) == 1
    with pytest.raises(UserError, match="after 1 tries"):
        ask(client(stub.url, max_retries=0))


def test_the_key_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    errors = []
    with serve(lambda number, body: (403, KEY, {})) as stub:
        chat = client(stub.url, key_env="MY_KEY")
        with pytest.raises(UserError) as caught:
            ask(chat)
        errors.append(str(caught.value))
        assert stub.headers[0]["Authorization"] == f"Bearer {KEY}"
    shown = "".join([*errors, repr(vars(chat)), repr(chat.usage), caplog.text, *capsys.readouterr()])
    assert KEY not in shown
    assert KEY not in json.dumps(stub.bodies)
    with pytest.raises(UserError, match="plain http"):
        ChatClient("http://example.org/v1", "m", key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="MY_KEY holds no key"):
        ask(ChatClient("https://example.org/v1", "m", key_env="MY_KEY"))


def test_redirects_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(lambda number, body: says("stolen")) as other:
        with serve(lambda number, body: (307, "", {"Location": f"{other.url}/chat/completions"})) as stub:
            with pytest.raises(UserError, match="status 307"):
                ask(client(stub.url))
        assert not other.headers


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMALIGN_ENDPOINT", "MMALIGN_ENDPOINT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="base_url"):
        ChatClient()
    with pytest.raises(UserError, match="model"):
        ChatClient("https://h/v1")
    monkeypatch.setenv("MMALIGN_ENDPOINT", "https://h/v1/")
    monkeypatch.setenv("MMALIGN_ENDPOINT_MODEL", "m")
    assert ChatClient().base_url == "https://h/v1"


def test_rate_limit_and_cost() -> None:
    with serve(lambda number, body: says("yes", tokens=1000)) as stub:
        chat = client(stub.url, requests_per_minute=1200, price_in=2.0, price_out=10.0, max_cost=0.006)
        began = time.monotonic()  # the server may see the first request late, never the third one early
        for _ in range(3):
            ask(chat)
        assert stub.times[2] - began >= 0.1
        assert chat.usage.as_dict() == {
            "requests": 3, "retries": 0, "prompt_tokens": 3000, "completion_tokens": 3,
            "cost": pytest.approx(3 * (0.002 + 0.00001)),
        }  # fmt: skip
        with pytest.raises(UserError, match="max_cost"):
            ask(chat)


def reply(number: int, body: dict[str, Any]) -> Answer:
    text = body["messages"][0]["content"][-1]["text"]
    for name, word in (
        ("cat", "Yes."),
        ("dog", "no, there is none"),
        ("cow", "I am unsure"),
        ("hen", "banana"),
    ):
        if f'"{name}"' in text:
            return says(word)
    return says("1")


def test_judge_attaches_the_picture_and_reads_replies(tmp_path: Path) -> None:
    with serve(reply) as stub:
        judge = EndpointJudge(stub.url, "m", backoff=0.01, reply_log=tmp_path / "replies.jsonl")
        assert judge.verify(ROW, FACTS) == [1, -1, 0, 0]
        assert judge.unparsed == 1
        assert judge.compare(ROW, "a cat", "a dog") == 1.0
        preference = OrderSwapped(judge).prefer(ROW, "x", "y")
        assert preference.probability == 0.5 and not preference.consistent
        judge.close()
    url = stub.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert picture.getpixel((0, 0)) == (200, 0, 0)
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 7


def test_questions_are_asked_side_by_side() -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def slow(number: int, body: dict[str, Any]) -> Answer:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.1)
        with lock:
            busy -= 1
        return says("yes")

    with serve(slow) as stub:
        judge = EndpointJudge(stub.url, "m", concurrency=3)
        judge.verify(ROW, [Fact("object", (str(k),), str(k)) for k in range(9)])
        judge.close()
    assert 2 <= most <= 3


def test_a_collection_that_broke_off_goes_on(tmp_path: Path) -> None:
    rows = [row(f"r{k}", f"o:x{k} .", color=k) for k in range(5)]
    down = True

    def flaky(number: int, body: dict[str, Any]) -> Answer:
        return (500, "", {}) if down and number >= 3 else says("yes")

    with serve(flaky) as stub:
        judge = EndpointJudge(stub.url, "m", backoff=0.01, max_retries=1)
        with pytest.raises(UserError, match="run the command again"):
            collect(rows, judge, WordExtractor(), tmp_path / "f.jsonl", tmp_path / "c")
        asked = len(stub.bodies)
        down = False
        done = collect(rows, judge, WordExtractor(), tmp_path / "f.jsonl", tmp_path / "c")
        assert len(stub.bodies) == asked + 2
        judge.close()
    assert all(item.segments[0].labels["object"] == 1 for item in done)


def test_yes_no() -> None:
    assert [parse_yes_no(t) for t in ("Yes", "**no**", "Answer: yes.", "cannot tell", "nothing", "")] == [
        1, -1, 1, 0, None, None,
    ]  # fmt: skip


GOOD = '[{"object": ["a cat"], "attribute": ["The cat is red."], "relation": []}, {"object": []}]'


@pytest.mark.parametrize(
    "reply", [GOOD, f"Sure!\n```json\n{GOOD}\n```", f'{{"parts": {GOOD}}}', f"[see] {GOOD} done"]
)
def test_facts_are_read_from_untidy_replies(reply: str) -> None:
    found = parse_facts(reply, 2)
    assert found is not None
    assert [f.text for f in found[0]] == ["a cat", "The cat is red."] and found[1] == []
    assert found[0][1].key == ("the cat is red",) and found[0][1].type == "attribute"


@pytest.mark.parametrize("reply", ["", "none", '{"object": "x"', "[1, 2]", "[]", '"text"'])
def test_unreadable_replies_are_known(reply: str) -> None:
    assert parse_facts(reply, 2) is None


def test_extractor_falls_back_to_single_parts() -> None:
    def answer(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][0]["content"]
        if "2. " in text:
            return says("sorry")
        return says('{"object": ["a cat"]}' if "cat" in text.rpartition("\n")[2] else "sorry")

    with serve(answer) as stub:
        extractor = EndpointExtractor(client=client(stub.url))
        assert [[f.text for f in part] for part in extractor.extract("A cat. Hm.")] == [["a cat"], []]
        assert extractor.unparsed == 1
        asked = len(stub.bodies)
        extractor.extract("A cat. Hm.")
        assert len(stub.bodies) == asked
        assert extractor.extract("") == []
