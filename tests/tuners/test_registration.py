"""The string-key route into peft, pinned: what it needs of peft's mappings, and that nothing else was touched."""

from __future__ import annotations

from dataclasses import dataclass

import peft
import pytest
from backbones import vit
from peft import LoraConfig, get_peft_model, mapping

from mmalign.errors import UserError
from mmalign.tuners import DeltaTuner, HookTuner, SideTuner, SiteConfig, register_tuner

TABLES = ("PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "PEFT_TYPE_TO_PREFIX_MAPPING")
OURS = {"MMALIGN_DELTA": DeltaTuner, "MMALIGN_HOOK": HookTuner, "MMALIGN_SIDE": SideTuner}


def test_mappings_of_this_peft_take_string_keys() -> None:
    assert peft.__version__.startswith("0.21."), "check docs/tuners/extending.md against this version of peft"
    for table in TABLES:
        assert isinstance(getattr(mapping, table), dict)
        assert set(OURS) <= set(getattr(mapping, table))
    for name, tuner in OURS.items():
        assert mapping.PEFT_TYPE_TO_TUNER_MAPPING[name] is tuner
        assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name] is SiteConfig


def test_peft_itself_is_as_it_was() -> None:
    model = get_peft_model(vit(), LoraConfig(target_modules=["qkv"], r=2))
    assert type(model.base_model).__name__ == "LoraModel"


def test_a_name_is_taken_once() -> None:
    @dataclass
    class Other(SiteConfig):
        """A configuration of someone else."""

    register_tuner("MMALIGN_DELTA", DeltaTuner)
    with pytest.raises(UserError, match="MMALIGN_DELTA: this peft_type is taken by"):
        register_tuner("MMALIGN_DELTA", HookTuner)
    with pytest.raises(UserError, match="is taken by"):
        register_tuner("MMALIGN_DELTA", DeltaTuner, Other)


def test_another_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mapping, "PEFT_TYPE_TO_PREFIX_MAPPING")
    with pytest.raises(UserError, match=r"has no PEFT_TYPE_TO_PREFIX_MAPPING: install peft==0\.21\.2"):
        register_tuner("MMALIGN_NEW", HookTuner)


def test_a_delta_tuner_takes_changes_of_weights_only() -> None:
    spec = {"kind": "adapter", "in": 24, "out": 24, "hidden": 2}
    with pytest.raises(UserError, match="DeltaTuner holds delta, token parts only, not adapter"):
        get_peft_model(vit(), SiteConfig(peft_type="MMALIGN_DELTA", plan={"blocks.0.mlp": [spec]}))
    with pytest.raises(UserError, match='names "blocks.9.mlp", which this model does not have'):
        get_peft_model(vit(), SiteConfig(peft_type="MMALIGN_HOOK", plan={"blocks.9.mlp": [spec]}))
