"""Media stand where the prompt shows them, on either candidate, from paths, bytes and parts."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmalign.data.pairs import pair_of
from mmalign.data.rows import read_rows
from mmalign.errors import UserError
from mmalign.types import Row


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name)
    for name in ("a.wav", "a.mp4"):
        (tmp_path / name).write_bytes(name.encode())


def row_of(folder: Path, record: dict[str, Any]) -> Row:
    (folder / "rows.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return read_rows(folder / "rows.jsonl")[0]


def names(media: tuple[Any, ...]) -> list[str]:
    return [Path(item).name for item in media]


def test_every_media_column_is_read(tmp_path: Path) -> None:
    row = row_of(
        tmp_path, {"prompt": "x", "images": ["a.png", "b.png"], "audio": "a.wav", "videos": ["a.mp4"]}
    )
    assert names(row.media) == ["a.png", "b.png", "a.wav", "a.mp4"]


def test_parts_decide_the_order(tmp_path: Path) -> None:
    parts = [{"type": "audio"}, {"type": "image"}, {"type": "text", "text": "x"}, {"type": "image"}]
    record = {
        "prompt": [{"role": "user", "content": parts}],
        "images": ["b.png", "a.png"],
        "audios": ["a.wav"],
    }
    row = row_of(tmp_path, record)
    assert names(row.media) == ["a.wav", "b.png", "a.png"] and row.prompt[0]["content"] == parts


def test_media_inside_parts(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (2, 3)).save(data, "PNG")
    address = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    parts = [
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "b.png"}},
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": address}},
    ]
    row = row_of(tmp_path, {"messages": [{"role": "user", "content": parts}], "image": "c.png"})
    assert names(row.media[:3]) == ["a.png", "b.png", "c.png"] and row.media[3].size == (2, 3)
    assert row.prompt[0]["content"] == [{"type": "image"}] * 4


@pytest.mark.parametrize(
    "record",
    [
        {"query": "<image>What? <image>", "response": "y", "images": ["a.png", "b.png"]},
        {"instruction": "<image>What? <image>", "output": "y", "images": ["a.png", "b.png"]},
        {"messages": [{"role": "user", "content": "<image>What? <image>"}], "images": ["a.png", "b.png"]},
    ],
)
def test_tags_become_parts(tmp_path: Path, record: dict[str, Any]) -> None:
    row = row_of(tmp_path, record)
    image, text = {"type": "image"}, {"type": "text", "text": "What? "}
    assert row.prompt == [{"role": "user", "content": [image, text, image]}]
    assert names(row.media) == ["a.png", "b.png"]


def test_two_kinds_of_tags_order_the_media(tmp_path: Path) -> None:
    row = row_of(tmp_path, {"query": "<audio>is<image>?", "images": ["a.png"], "audios": ["a.wav"]})
    assert names(row.media) == ["a.wav", "a.png"]


def test_media_on_either_candidate(tmp_path: Path) -> None:
    record = {"prompt": "draw", "chosen": "one", "rejected": "two", "images": ["a.png"]}
    row = row_of(tmp_path, {**record, "chosen_images": ["b.png"], "rejected_image": "c.png"})
    assert (names(row.chosen_media), names(row.rejected_media)) == (["b.png"], ["c.png"])
    pair = pair_of(row)
    assert (names(pair.chosen.media), names(pair.rejected.media)) == (["a.png", "b.png"], ["a.png", "c.png"])
    row = row_of(tmp_path, {**record, "chosen_audio": "a.wav", "rejected_videos": ["a.mp4"]})
    assert (names(row.chosen_media), names(row.rejected_media)) == (["a.wav"], ["a.mp4"])


def test_swifts_rejected_images_replace_the_prompts(tmp_path: Path) -> None:
    """In ms-swift both sides have one picture each: the rejected side sees another one."""
    record = {
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "good"}],
        "rejected_response": "bad",
        "images": ["a.png"],
        "rejected_images": ["b.png"],
    }
    pair = pair_of(row_of(tmp_path, record))
    assert (names(pair.chosen.media), names(pair.rejected.media)) == (["a.png"], ["b.png"])
    assert pair.chosen.prompt == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    ]


def test_bytes_of_a_picture(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    rows = [{"prompt": "x", "image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}},
            {"prompt": "y", "image": {"bytes": b"no picture", "path": None}}]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet")[0].media[0].size == (4, 4)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="row 2: holds bytes that are no readable image"):
        read_rows(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "x", "images": ["aa.png"]}, 'row 1: media file .*aa.png does not exist \\(did you mean "a.png"'),
        ({"prompt": "x", "images": ["https://x.org/a.png"]}, "row 1: https://x.org/a.png is a web address"),
        ({"query": "<image><image>", "images": ["a.png"]}, "row 1: the text shows 2 <image> but the row has 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "row 1: the prompt shows more image parts"),
        ({"prompt": "x", "image": "data:image/png;base64,***"}, "row 1: holds a data: address that is not base64"),
    ],
)  # fmt: skip
def test_complaints(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        row_of(tmp_path, record)
