"""Every spelling of one row gives the same row; what is ambiguous or does not fit is said with file, row and columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.data.rows import open_rows, read_rows
from mmalign.errors import UserError
from mmalign.types import Row

Q, GOOD, BAD = "What is it?", "A red cube.", "A blue ball."
USER, SAID = {"role": "user", "content": Q}, {"role": "assistant", "content": GOOD}
WRONG = {"role": "assistant", "content": BAD}
SYSTEM = {"role": "system", "content": "Be brief."}
BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def rows_of(folder: Path, *records: dict[str, Any], columns: str = "auto") -> list[Row]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_rows(file, columns=columns)


PAIRS = {
    "trl": {"prompt": Q, "chosen": GOOD, "rejected": BAD},
    "trl-conversational": {"prompt": [USER], "chosen": [SAID], "rejected": [WRONG]},
    "trl-implicit": {"chosen": [USER, SAID], "rejected": [USER, WRONG]},
    "trl-repeated-text-prompt": {"prompt": Q, "chosen": [USER, SAID], "rejected": [USER, WRONG]},
    "trl-repeated-prompt": {"prompt": [USER], "chosen": [USER, SAID], "rejected": [USER, WRONG]},
    "ultrafeedback": {
        "prompt": Q,
        "messages": [USER, SAID],
        "chosen": [USER, SAID],
        "rejected": [USER, WRONG],
    },
    "swift": {"messages": [USER, SAID], "rejected_response": BAD},
    "swift-messages": {"messages": [USER, SAID], "rejected_messages": [USER, WRONG]},
    "swift-query": {"query": Q, "response": GOOD, "rejected_response": BAD},
    "alpaca": {"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD},
    "sharegpt": {
        "conversations": [{"from": "human", "value": Q}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "openai-ranking": {"messages": [USER], "chosen": SAID, "rejected": WRONG},
}


@pytest.mark.parametrize("spelling", PAIRS)
def test_a_pair_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    (row,) = rows_of(tmp_path, PAIRS[spelling])
    assert (row.prompt, row.chosen, row.rejected, row.completion) == (Q, GOOD, BAD, None)


ANSWERS = {
    "trl": {"prompt": Q, "completion": GOOD},
    "trl-conversational": {"prompt": [USER], "completion": [SAID]},
    "messages": {"messages": [USER, SAID]},
    "swift": {"query": Q, "response": GOOD},
    "alpaca": {"instruction": Q, "input": "", "output": GOOD},
    "sharegpt": {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": GOOD}]},
}


@pytest.mark.parametrize("spelling", ANSWERS)
def test_an_answer_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    (row,) = rows_of(tmp_path, ANSWERS[spelling])
    assert (row.prompt, row.completion, row.chosen) == (Q, GOOD, None)


LABELLED = {
    "trl": {**ANSWERS["trl"], "label": False},
    "swift": {**ANSWERS["messages"], "label": False},
    "alpaca": {**ANSWERS["alpaca"], "kto_tag": False},
    "sharegpt": {**ANSWERS["sharegpt"], "kto_tag": False},
    "openai": {**ANSWERS["messages"], "kto_tag": False},
}


@pytest.mark.parametrize("spelling", LABELLED)
def test_a_verdict_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    (row,) = rows_of(tmp_path, LABELLED[spelling])
    assert (row.completion, dict(row.meta)) == (GOOD, {"label": False})


HISTORIES = {
    "messages": {"messages": [SYSTEM, *BEFORE, USER, SAID]},
    "swift": {"query": Q, "response": GOOD, "history": [["Hi", "Hello"]], "system": "Be brief."},
    "alpaca": {"instruction": Q, "output": GOOD, "history": [["Hi", "Hello"]], "system": "Be brief."},
    "sharegpt": {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": Q},
            {"from": "gpt", "value": GOOD},
        ],
    },
}


@pytest.mark.parametrize("spelling", HISTORIES)
def test_earlier_turns_and_system_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    (row,) = rows_of(tmp_path, HISTORIES[spelling])
    assert row.prompt == [SYSTEM, *BEFORE, USER] and row.completion == GOOD


def test_the_implicit_prompt_is_trls(tmp_path: Path) -> None:
    """Equal to TRL where candidates part at a word; where they part inside one, the word stays whole."""
    from trl.data_utils import maybe_extract_prompt

    texts = [("The sky is blue.", "The sky is green."), ("Q: a b\nA: yes", "Q: a b\nA: no")]
    for chosen, rejected in texts:
        theirs = maybe_extract_prompt({"chosen": chosen, "rejected": rejected})
        (row,) = rows_of(tmp_path, {"chosen": chosen, "rejected": rejected})
        assert row.prompt + row.chosen == chosen and row.prompt + row.rejected == rejected
        assert row.prompt.strip() == theirs["prompt"].strip()
    long = {"chosen": [*BEFORE, USER, SAID], "rejected": [*BEFORE, USER, WRONG]}
    (row,) = rows_of(tmp_path, long)
    theirs = maybe_extract_prompt(long)
    assert row.prompt == theirs["prompt"] and row.chosen == theirs["chosen"][0]["content"]
    (row,) = rows_of(tmp_path, {"chosen": "It is blue.", "rejected": "It is black."})
    assert (row.prompt, row.chosen, row.rejected) == ("It is", " blue.", " black.")


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"instruction": "Translate.", "input": "Hallo", "output": "Hello"})
    assert row.prompt == "Translate.\nHallo"


def test_swift_objects_are_written_into_the_text(tmp_path: Path) -> None:
    record = {
        "messages": [
            {"role": "user", "content": "Find the <ref-object>."},
            {"role": "assistant", "content": "It is at <bbox>."},
        ],
        "objects": {"ref": ["dog"], "bbox": [[1, 2, 30, 40]]},
    }
    (row,) = rows_of(tmp_path, record)
    assert (row.prompt, row.completion) == ("Find the dog.", "It is at [1, 2, 30, 40].")
    record["objects"] = {"ref": ["dog"], "bbox": []}
    with pytest.raises(UserError, match="row 1: the text shows more <bbox> than 'objects' holds"):
        rows_of(tmp_path, record)


def test_the_mapping_is_one_sentence(tmp_path: Path) -> None:
    rows_of(tmp_path, {"messages": [USER, SAID], "rejected_response": BAD, "source": "web", "id": "a"})
    said = open_rows(tmp_path / "rows.jsonl").mapping.sentence()
    assert said == (
        "ms-swift columns: messages → prompt and completion or chosen; rejected_response → rejected; "
        "kept in meta, not shown to the model: source"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": Q, "query": Q}, r"'prompt' \(TRL\) and 'query' \(ms-swift\) belong to different spellings"),
        ({"instruction": Q, "conversations": []}, r"'conversations' \(LLaMA-Factory \(sharegpt\)\) and 'instruction'"),
        ({"prompt": Q, "chosen": GOOD, "rejected_response": BAD}, "'prompt' .* and 'rejected_response'"),
        ({"prompt": Q, "messages": [USER]}, "holds both 'messages' and 'prompt'"),
        ({"prompt": Q, "images": [], "image": "a.png"}, "row 1: holds both 'images' and 'image'"),
        ({"promt": Q}, 'only .*promt.* \\(did you mean "prompt"'),
        ({"chosen": [USER, SAID], "rejected": [{"role": "user", "content": "x"}, WRONG]}, "share no prompt"),
        ({"prompt": Q, "chosen": [SAID, USER, SAID], "rejected": [WRONG]}, "holds turns of assistant, user"),
        ({"messages": [USER], "rejected_response": BAD}, "ends without the preferred one"),
        ({"conversations": [{"from": "humman", "value": Q}]}, 'turn from .humman. \\(did you mean "human"'),
        ({"query": Q, "history": ["Hi"]}, "'history' must be a list of"),
        ({"messages": [{"role": "user"}]}, "'messages' must be a list of {role, content} records"),
        ({"prompt": Q, "completion": " "}, "the answer is empty"),
    ],
)  # fmt: skip
def test_complaints(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rows_of(tmp_path, record)
    assert "rows.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_naming_the_spelling_settles_it(tmp_path: Path) -> None:
    record = {"prompt": "not this", "query": Q, "response": GOOD}
    (row,) = rows_of(tmp_path, record, columns="swift")
    assert row.prompt == Q and row.meta == {"prompt": "not this"}
    with pytest.raises(UserError, match='did you mean "swift"'):
        rows_of(tmp_path, record, columns="swif")


def test_a_later_row_of_another_spelling_is_named(tmp_path: Path) -> None:
    rows = [{"messages": [USER, SAID]}] * 70
    with pytest.raises(
        UserError, match=r"rows.jsonl: row 71: has the column 'rejected_response' \(ms-swift\)"
    ):
        rows_of(tmp_path, *rows, {"messages": [USER, SAID], "rejected_response": BAD})
