"""Plain rewards of pictures, grades and missing ones, sums by file: exact numbers and honest refusals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.errors import UserError
from mmalign.objectives.advantage import group_advantage
from mmalign.rewards.combine import WeightedSum
from mmalign.rewards.pictures.grades import LIKERT, parse_grade
from mmalign.rewards.pictures.judged import PictureJudge
from mmalign.rewards.pictures.paying import filled
from mmalign.rewards.pictures.plain import (
    Brightness,
    Colourfulness,
    JpegCompressibility,
    JpegIncompressibility,
)
from mmalign.rewards.pictures.tensors import as_picture, as_tensor, prompt_text
from mmalign.rewards.pictures.weighted import Weighted
from mmalign.types import Row
from tests.rewards.pictures_build import pictures, rollout


def test_jpeg_size_is_that_of_the_file_pil_writes() -> None:
    noise, flat = as_picture(pictures(1, 64)[0]), Image.new("RGB", (64, 64), (200, 30, 30))
    sizes = []
    for picture in (noise, flat):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        sizes.append(buffer.tell() / 1000)
    assert sizes[0] > 5 * sizes[1], "noise does not compress"
    batch = rollout([noise, flat])
    assert JpegIncompressibility()(batch).per_step[:, 1].tolist() == pytest.approx(sizes)
    assert JpegCompressibility()(batch).per_step[:, 1].tolist() == pytest.approx([-x for x in sizes])
    assert JpegIncompressibility()(batch).per_step[:, [0, 2]].abs().max() == 0
    with pytest.raises(UserError, match="quality"):
        JpegCompressibility(quality=100)


def test_answers_of_every_form_are_one_picture(tmp_path: Path) -> None:
    picture = as_picture(pictures(1, 8)[0])
    array = np.array(picture)
    picture.save(tmp_path / "x.png")
    forms: list[Any] = [picture, array, array.astype(np.float32) / 255, str(tmp_path / "x.png"),
                        torch.from_numpy(array).permute(2, 0, 1).float() / 255]  # fmt: skip
    tensors = [as_tensor(Row("r", "p", completion=form)) for form in forms]
    for tensor in tensors[1:]:
        assert torch.allclose(tensor, tensors[0], atol=1e-6)
    assert np.array_equal(np.array(as_picture(tensors[0])), array)
    for bad in (None, "a text", torch.zeros(8, 8, 3), np.zeros((8, 8))):
        with pytest.raises(UserError, match="row 'r'"):
            as_tensor(Row("r", "p", completion=bad))


def test_sizes_may_differ_in_one_rollout() -> None:
    answers = [as_picture(pictures(1, side, seed=side)[0]) for side in (8, 16, 8)]
    together = Brightness()(rollout(answers)).per_step[:, 1]
    alone = [float(Brightness()(rollout([answer])).per_step[0, 1]) for answer in answers]
    assert together.tolist() == pytest.approx(alone)


def test_brightness_and_colourfulness_by_hand() -> None:
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0, 0], x[0, 1, 0, 1], x[0, 2, 1, 0] = 1.0, 1.0, 1.0
    assert float(Brightness().score([], x)) == pytest.approx(0.25)
    array = x[0].permute(1, 2, 0).numpy() * 255
    rg, yb = array[..., 0] - array[..., 1], 0.5 * (array[..., 0] + array[..., 1]) - array[..., 2]
    wanted = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert float(Colourfulness().score([], x)) == pytest.approx(wanted / 100, rel=1e-5)
    grey = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    Colourfulness().score([], grey).sum().backward()
    assert torch.isfinite(grey.grad).all()
    y = pictures(2, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Colourfulness().score([], z), (y,))


def test_prompts_in_words() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "a red"}, {"type": "text", "text": "square"}]
    assert prompt_text(Row("r", [{"role": "user", "content": parts}])) == "a red square"
    assert prompt_text(Row("r", [{"role": "user", "content": "x"}])) == "x"
    with pytest.raises(UserError, match="prompt in words"):
        prompt_text(Row("r", 3))


@pytest.mark.parametrize("wrap", ["{}", "Rating: {}", "**{}**.", "I would say [{}].", "{}!\n"])
@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_every_likert_level_comes_back(wrap: str, case: Any) -> None:
    for k, level in enumerate(LIKERT):
        assert parse_grade(wrap.format(case(level))) == pytest.approx(k / 9), level


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("7", 0.7), ("7.5", 0.75), ("7/10", 0.7), ("Rating: 7 because 3 objects are there", 0.7), ("score is 10", 1.0),
        ("I give it 4 out of 10, though 2 shapes are missing", 0.4), ("**8**", 0.8), ("0", 0.0), ("Rating: [[6]]", 0.6),
        ("2024", None), ("11", None), ("-1", None), ("", None), ("no idea", None), ("3 or 4", None),
        ("Rating: 3. Rating: 5", None), ("not good", None), ("neither good nor poor", None), ("it isn't very good", None),
        ("good composition, poor colours", None), ("goods", None), ("3rd", None), ("version 2.10.3", None),
    ],
)  # fmt: skip
def test_numbers_and_what_is_no_grade(reply: str, grade: float | None) -> None:
    assert parse_grade(reply) == (None if grade is None else pytest.approx(grade))


class Says:
    """A judge that gives prepared replies."""

    name = "says"

    def __init__(self, *replies: Any) -> None:
        self.replies, self.seen = list(replies), []

    def ask(self, row: Row, text: str) -> str:
        self.seen.append((text, row.media[0].size))
        return str(self.replies.pop(0))

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        self.seen.append((facts[0].question(), row.media[0].size))
        return [self.replies.pop(0)]


def test_a_reply_that_says_nothing_is_missing_and_neutral() -> None:
    answers = [as_picture(x) for x in pictures(6, 8)]
    batch = rollout(answers, group=[0, 0, 0, 1, 1, 2])
    judge = Says("9", "no idea", "3", "2024", "5", "")
    reward = PictureJudge(judge, reply="grade")(batch)
    values = reward.per_step[:, 1]
    assert values.tolist() == pytest.approx([0.9, 0.6, 0.3, 0.5, 0.5, 0.17 / 0.3])
    assert reward.notes["judge/valid"].tolist() == [1, 0, 1, 0, 1, 0]
    assert judge.seen[0][0].startswith("How well does the picture match this description: a red square?")
    assert "from 0 (not at all) to 10" in judge.seen[0][0] and judge.seen[0][1] == (8, 8)
    advantage = group_advantage(values, batch.group, scale="none")
    assert advantage.tolist() == pytest.approx([0.3, 0, -0.3, 0, 0, 0], abs=1e-6)
    summed = WeightedSum({"judge": lambda _: reward, "bright": Brightness()})(batch)
    assert summed.notes["judge/valid"].sum() == 3
    with pytest.raises(UserError, match="not one of 6 replies"):
        filled("judge", values, torch.zeros(6, dtype=torch.bool), batch)


def test_yes_no_judges_pay_one_zero_or_nothing() -> None:
    batch = rollout([as_picture(x) for x in pictures(3, 8)], group=[0, 0, 0])
    reward = PictureJudge(Says(1, 0, -1))(batch)
    assert reward.per_step[:, 1].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert reward.notes["judge/valid"].tolist() == [1, 0, 1]

    class Sure(Says):
        threshold, band = 0.5, 0.1

        def probabilities(self, row: Row, facts: Sequence[Any]) -> list[float]:
            return [self.replies.pop(0)]

    graded = PictureJudge(Sure(0.9, 0.55, 0.2))(batch)
    assert graded.per_step[:, 1].tolist() == pytest.approx([0.9, 0.55, 0.2])
    assert graded.notes["judge/valid"].tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="yes or no alone"):
        PictureJudge(type("Verifies", (), {"name": "v", "verify": lambda *_: [1]})(), reply="grade")
    with pytest.raises(UserError, match="prompt"):
        PictureJudge(Says(), question="Is it nice?")


def test_a_file_of_rewards_is_their_weighted_sum(tmp_path: Path) -> None:
    file = tmp_path / "rewards.yaml"
    file.write_text(
        "- {name: brightness, weight: 2}\n- {name: jpeg_compressibility, weight: 0.1, options: {quality: 80}}\n"
    )
    batch = rollout([as_picture(x) for x in pictures(2, 8)])
    reward = Weighted(str(file))(batch)
    one, two = Brightness()(batch).per_step, JpegCompressibility(80)(batch).per_step
    assert torch.allclose(reward.per_step, 2 * one + 0.1 * two)
    assert set(reward.parts) == {"brightness", "jpeg_compressibility"}
    with pytest.raises(UserError, match="jpeg_compressibility: cannot be differentiated"):
        Weighted(str(file)).score(batch.rows, pictures(2, 8))
    file.write_text("- {name: brightness, weight: 2}\n- {name: colourfulness}\n")
    x = pictures(2, 8).requires_grad_()
    total = Weighted(str(file)).score(batch.rows, x)
    assert torch.allclose(total, 2 * Brightness().score([], x) + Colourfulness().score([], x))
    bright = torch.autograd.grad(Brightness().score([], x).sum(), x)[0]
    colour = torch.autograd.grad(Colourfulness().score([], x).sum(), x)[0]
    assert torch.allclose(torch.autograd.grad(total.sum(), x)[0], 2 * bright + colour, atol=1e-7)
    for text, message in (("a: 1", "expected a list"), ("- {name: brightness, wieght: 2}", "weight"),
                          ("- {name: brightnes}", "brightness"), ("- {name: fgaif}", "recipe"),
                          ("- {name: jpeg_compressibility, options: {qualty: 2}}", "quality")):  # fmt: skip
        file.write_text(text + "\n")
        with pytest.raises(UserError, match=message):
            Weighted(str(file))
