"""Loading, saving, and what a user reads when something is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vision_rows import load, make_rows, picture

from mmalign.errors import UserError
from mmalign.modalities.vision import VisionAdapter
from mmalign.modalities.vision.media import open_image
from mmalign.types import Row, Speed


def scores(adapter: VisionAdapter, model: Any, rows: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return adapter.logp(model, adapter.collate(rows)).values


def failure(action: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        action(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_save_and_load_changes_nothing(loaded: Any, rows: list[Row], tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.01)
    before = scores(loaded.adapter, loaded.model, rows)
    loaded.adapter.save(loaded.model, tmp_path / "saved")
    assert list((tmp_path / "saved").glob("*.safetensors")) and not list((tmp_path / "saved").glob("*.bin"))
    again = load(replace(loaded.family, folder=tmp_path / "saved"))
    assert torch.equal(scores(again.adapter, again.model, rows), before)
    assert (
        again.adapter.collate(rows).inputs["input_ids"].tolist()
        == loaded.adapter.collate(rows).inputs["input_ids"].tolist()
    )


def test_saved_generation_config_keeps_placeholders_out(llava: Any, tmp_path: Path) -> None:
    llava.adapter.save(llava.model, tmp_path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    assert config["suppress_tokens"] == llava.adapter._forbidden.tolist()


def test_answers_end_as_the_chat_template_ends_them(loaded: Any, rows: list[Row]) -> None:
    tokenizer = loaded.adapter.processor.tokenizer
    end = "<end_of_utterance>" if loaded.family.name in ("idefics3", "smolvlm") else "</s>"
    batch = loaded.adapter.collate(rows[:1])
    assert tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0])[-1] == end


def test_source_errors(families: Any, tmp_path: Path) -> None:
    adapter = VisionAdapter()
    assert 'model folder "/no/such/place" does not exist' in failure(adapter.load, "/no/such/place")
    assert "set model.model_name_or_path" in failure(adapter.load, "")
    folder = families["llava"].folder
    assert 'did you mean "float32"?' in failure(lambda: adapter.load(str(folder), dtype="float23"))
    (tmp_path / "empty").mkdir()
    assert "holds no readable config.json" in failure(adapter.load, str(tmp_path / "empty"))
    assert "call load() first" in failure(VisionAdapter().collate, [])
    assert 'did you mean "left"?' in failure(lambda: VisionAdapter(padding_side="lef"))  # type: ignore[arg-type]


def test_no_chat_template(families: Any, tmp_path: Path) -> None:
    shutil.copytree(families["llava"].folder, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    assert "has no chat template" in failure(VisionAdapter().load, str(tmp_path / "m"))


def test_text_model_is_refused(tmp_path: Path) -> None:
    import transformers as hf

    hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    ).save_pretrained(tmp_path)
    assert 'is not an image-text-to-text model: its type is "llama"' in failure(
        VisionAdapter().load, str(tmp_path)
    )


def test_processor_missing(families: Any, tmp_path: Path) -> None:
    shutil.copytree(families["llava"].folder, tmp_path / "m")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    assert "no processor could be loaded" in failure(VisionAdapter().load, str(tmp_path / "m"))


def test_pickled_weights_are_refused(families: Any, tmp_path: Path) -> None:
    shutil.copytree(families["llava"].folder, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "m" / "pytorch_model.bin")
    weights.unlink()
    message = failure(VisionAdapter().load, str(tmp_path / "m"))
    assert "no image-text model could be loaded" in message and "safetensors" in message


def test_missing_weights_are_refused(families: Any, tmp_path: Path) -> None:
    shutil.copytree(families["llava"].folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file(
        {key: value for key, value in weights.items() if key != name},
        tmp_path / "m" / "model.safetensors",
        {"format": "pt"},
    )
    assert "1 weights are missing" in failure(VisionAdapter().load, str(tmp_path / "m"))


def test_unknown_logit_transform_is_refused(families: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers as hf

    original = hf.LlavaForConditionalGeneration.forward

    def scaled(self: Any, **inputs: Any) -> Any:
        out = original(self, **inputs)
        out.logits = out.logits * 3
        return out

    monkeypatch.setattr(hf.LlavaForConditionalGeneration, "forward", scaled)
    assert "changes its logits after the head" in failure(VisionAdapter().load, str(families["llava"].folder))


def test_bad_images_name_file_and_row(llava: Any, tmp_path: Path) -> None:
    row = Row("r7", "What?", (tmp_path / "none.png",), "A cat")
    assert (
        failure(llava.adapter.collate, [row]) == f'row "r7": image file "{tmp_path}/none.png" does not exist'
    )
    (tmp_path / "text.png").write_text("no picture")
    message = failure(llava.adapter.collate, [replace(row, media=(tmp_path / "text.png",))])
    assert message.startswith('row "r7": "') and "text.png" in message
    picture(0, 200, 200).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    message = failure(llava.adapter.collate, [replace(row, media=(str(tmp_path / "cut.jpg"),))])
    assert "cut.jpg" in message and "r7" in message and "truncated" in message
    assert "must be a path, a PIL image or an array" in failure(
        llava.adapter.collate, [replace(row, media=(3,))]
    )
    assert "[H, W]" in failure(llava.adapter.collate, [replace(row, media=(np.zeros(4),))])


@pytest.mark.parametrize("answer", ["", "  \n", None, [], [{"role": "assistant", "content": ""}]])
def test_empty_response(loaded: Any, rows: list[Row], answer: Any) -> None:
    message = failure(loaded.adapter.collate, [rows[1], replace(rows[0], completion=answer)])
    assert 'row "plain"' in message and ("empty" in message or "completion must be text" in message)


def test_empty_steps(llava: Any, llava_rows: list[Row]) -> None:
    assert "has no tokens" in failure(llava.adapter.collate, [replace(llava_rows[0], steps=[])])


def test_wrong_number_of_images(loaded: Any, rows: list[Row]) -> None:
    token = loaded.adapter.processor.image_token
    written = replace(rows[0], prompt=f"{token}{token} What is it?")
    assert "shows 2 image(s) but the row carries 1" in failure(loaded.adapter.collate, [rows[1], written])
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert "shows 1 image(s) but the row carries 0" in failure(
        loaded.adapter.collate, [replace(rows[0], prompt=parts, media=())]
    )


def test_placeholder_and_feature_counts_must_agree(loaded: Any, rows: list[Row]) -> None:
    processor = loaded.adapter.processor
    changes = {
        "llava": (processor, "patch_size", 16),
        "idefics3": (processor, "image_seq_len", 9),
        "smolvlm": (processor, "image_seq_len", 9),
        "paligemma": (processor, "image_seq_length", 9),
        "internvl": (processor, "image_seq_length", 9),
    }
    target, name, value = changes.get(loaded.family.name, (processor.image_processor, "merge_size", 1))
    setattr(target, name, value)
    message = failure(loaded.adapter.collate, [rows[0]])
    assert message.startswith('row "plain": the prompt has ') and "feature(s)" in message


def test_placeholder_in_the_response(loaded: Any, rows: list[Row]) -> None:
    token = loaded.adapter.processor.image_token
    row = replace(rows[0], completion=f"A {token} cat")
    assert "media placeholder token" in failure(loaded.adapter.collate, [row])


def test_bad_prompts(llava: Any) -> None:
    for prompt, part in (
        (3, "prompt must be text"),
        ([], "prompt must be text"),
        ([{"role": "user"}], '"role" and "content"'),
    ):
        message = failure(llava.adapter.collate, [Row("r", prompt, (), "A cat")])
        assert part in message and 'row "r"' in message
    system = [{"role": "system", "content": "A cat"}]
    row = Row("r", system, (picture(0, 9, 9),), "A cat")
    assert "no user message" in failure(llava.adapter.collate, [row])


def test_text_only_row_where_the_family_needs_an_image(families: Any) -> None:
    one = load(families["paligemma"])
    message = failure(one.adapter.collate, [Row("r", "What?", (), "A cat")])
    assert 'row "r": the processor refused the prompt' in message


def test_media_of_every_kind_are_the_same_picture(llava: Any, tmp_path: Path) -> None:
    image = picture(3, 30, 50)
    image.save(tmp_path / "p.png")
    pixels = np.asarray(image)
    kinds = [
        image,
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        pixels,
        pixels.transpose(2, 0, 1),
        pixels / 255.0,
    ]
    for kind in kinds:
        assert np.array_equal(np.asarray(open_image(kind, "r")), pixels)
    rows = [Row(str(i), "What?", (kind,), "A cat") for i, kind in enumerate(kinds)]
    llava.adapter.speed = Speed(share_prefix=False, pack=False)
    values = scores(llava.adapter, llava.model, rows)
    assert bool((values == values[0]).all())


def test_changed_file_is_read_again(llava: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    picture(0, 40, 40).save(path)
    row = Row("r", "What?", (path,), "A cat")
    first = scores(llava.adapter, llava.model, [row])
    picture(1, 44, 44).save(path)
    assert not torch.equal(first, scores(llava.adapter, llava.model, [row]))


def test_same_rows_from_two_adapters(families: Any) -> None:
    one, two = load(families["internvl"]), load(families["internvl"])
    rows = make_rows(one.family)
    assert torch.equal(scores(one.adapter, one.model, rows), scores(two.adapter, two.model, rows))


def test_placeholders_may_be_scored_as_trl_does(families: Any, llava_rows: list[Row]) -> None:
    adapter = VisionAdapter(forbid_placeholders=False)
    model = adapter.load(str(families["llava"].folder))
    batch = adapter.collate(llava_rows[:1])
    inputs = {name: value for name, value in batch.inputs.items() if name != "start"}
    start, steps = int(batch.inputs["start"][0]), batch.mask.shape[1]
    with torch.no_grad():
        whole = torch.log_softmax(model(**inputs).logits.float(), -1)[0, start - 1 : start + steps - 1]
        got = adapter.logp(model, batch).values[0]
    expected = whole.gather(-1, inputs["input_ids"][0, start:][:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
