"""LoRA: on the language model only, exact at the start, saved and loaded without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmalign.errors import UserError
from mmalign.modalities.tokens.lora import language_linears, merged
from mmalign.modalities.vision import VisionAdapter, attach_lora
from mmalign.rng import generator
from mmalign.types import Row, Speed


def scores(adapter: VisionAdapter, model: Any, rows: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return adapter.logp(model, adapter.collate(rows)).values


def stir(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator(1, name))


def test_starts_equal_and_trains_the_language_model_only(loaded: Any, rows: list[Row]) -> None:
    loaded.adapter.speed = Speed(
        cache_towers=False
    )  # a cached tower sees one picture at a time: equal to rounding
    before = scores(loaded.adapter, loaded.model, rows)
    state = torch.random.get_rng_state()
    model = attach_lora(loaded.model, r=4, alpha=8, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(scores(loaded.adapter, model, rows), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert not any("vision" in name or "visual" in name or "lm_head" in name for name in trained)
    loaded.adapter.logp(model, loaded.adapter.collate(rows)).values.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_reference_is_the_adapter_switched_off(loaded: Any, rows: list[Row]) -> None:
    loaded.adapter.speed = Speed(
        cache_towers=False
    )  # a cached tower sees one picture at a time: equal to rounding
    before = scores(loaded.adapter, loaded.model, rows)
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    moved = scores(loaded.adapter, model, rows)
    assert float((moved - before).abs().max()) > 1e-3
    with model.disable_adapter():
        assert torch.equal(scores(loaded.adapter, model, rows), before)
    assert torch.equal(scores(loaded.adapter, model, rows), moved)


def test_samples_come_from_the_adapted_model(loaded: Any, rows: list[Row]) -> None:
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    rollout = loaded.adapter.sample(model, rows, 2, generator(0), max_steps=8)
    with torch.no_grad():
        out = loaded.adapter.logp(model, loaded.adapter.collate(rollout.rows))
    assert float(((out.values - rollout.logp).abs() * out.mask).max()) < 1e-5


def test_adapter_folder_round_trip(loaded: Any, rows: list[Row], tmp_path: Path) -> None:
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    before = scores(loaded.adapter, model, rows)
    loaded.adapter.save(model, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    again = VisionAdapter()
    kept = again.load(str(tmp_path), merge=False)
    assert torch.equal(scores(again, kept, rows), before)
    assert {name for name, p in kept.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


def test_loaded_adapter_is_the_start_of_the_next_stage(loaded: Any, rows: list[Row], tmp_path: Path) -> None:
    first = attach_lora(loaded.model, r=4, alpha=8)
    stir(first)
    before = scores(loaded.adapter, first, rows)
    loaded.adapter.save(first, tmp_path / "sft")
    again = VisionAdapter()
    start = again.load(str(tmp_path / "sft"))
    assert all(parameter.requires_grad for parameter in start.parameters())
    torch.testing.assert_close(scores(again, start, rows), before, atol=1e-5, rtol=0)
    second = again.attach_lora(start, r=2, alpha=4, target_modules="all-linear", seed=0)
    stir(second)
    with second.disable_adapter():
        torch.testing.assert_close(scores(again, second, rows), before, atol=1e-5, rtol=0)
    moved = scores(again, second, rows)
    again.save(second, tmp_path / "rl")
    third = VisionAdapter()
    torch.testing.assert_close(
        scores(third, third.load(str(tmp_path / "rl")), rows), moved, atol=1e-5, rtol=0
    )


def test_merged_folder_needs_no_peft(loaded: Any, rows: list[Row], tmp_path: Path) -> None:
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    before = scores(loaded.adapter, model, rows)
    loaded.adapter.save(model, tmp_path, merge=True)
    assert not (tmp_path / "adapter_config.json").exists()
    again = VisionAdapter()
    torch.testing.assert_close(scores(again, again.load(str(tmp_path)), rows), before, atol=1e-5, rtol=0)
    assert torch.equal(scores(loaded.adapter, model, rows), before)


def test_seed_decides_the_start(families: Any) -> None:
    def start(seed: int) -> torch.Tensor:
        model = attach_lora(VisionAdapter().load(str(families["llava"].folder)), r=2, seed=seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))


def test_targets(llava: Any) -> None:
    names = language_linears(llava.model)
    assert len(names) == 2 * 7 and all("language_model" in name for name in names)
    with pytest.raises(UserError, match=r'no linear layer is called "q_prj" .did you mean "q_proj"'):
        attach_lora(llava.model, target_modules=["q_prj"])
    model = attach_lora(llava.model, r=2, target_modules=["linear_1"])
    assert [
        n for n, p in model.named_parameters() if p.requires_grad and "multi_modal_projector" not in n
    ] == []


def test_adapter_without_base_or_safetensors(llava: Any, tmp_path: Path) -> None:
    llava.adapter.save(attach_lora(llava.model, r=2), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"without adapter_model\.safetensors"):
        VisionAdapter().load(str(tmp_path))


def test_sampling_merges_and_gives_the_weights_back(loaded: Any, rows: list[Row]) -> None:
    """Same answers with and without; the weights come back bit for bit, also after an error."""
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}

    def drawn(merge: bool) -> Any:
        loaded.adapter.speed = Speed(merge_lora=merge)
        return loaded.adapter.sample(model, rows[:2], 2, generator(3, "draw"), max_steps=6)

    fast, plain = drawn(True), drawn(False)
    assert [row.steps for row in fast.rows] == [row.steps for row in plain.rows]
    assert float((fast.logp - plain.logp).abs().max()) < 2e-5
    with pytest.raises(RuntimeError, match="midway"), merged(model):
        assert not torch.equal(model.state_dict()[weight_name(before)], before[weight_name(before)])
        raise RuntimeError("midway")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == places


def weight_name(state: dict[str, torch.Tensor]) -> str:
    """A weight that carries LoRA."""
    return next(name for name in state if name.endswith("base_layer.weight"))


def test_what_is_not_merged(loaded: Any) -> None:
    """An adapter that is off, and weights in half precision, where the sum would lose what the adapter adds."""
    model = attach_lora(loaded.model, r=4, alpha=8)
    stir(model)
    name = weight_name(model.state_dict())
    before = model.state_dict()[name].clone()
    with model.disable_adapter(), merged(model):
        assert torch.equal(model.state_dict()[name], before)
    with merged(model.bfloat16()):
        assert torch.equal(model.state_dict()[name], before.bfloat16())
