"""A tuner of someone else: its part and its name from another package, saved, and read where it was not imported yet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import inputs, vit
from peft import PeftModel

from mmalign import registry
from mmalign.errors import UserError
from mmalign.tuners import Part, attach, declared_count, parts, register_part, trainable_count

PACKAGE = """
import torch
from torch import nn
from mmalign.config.fields import Section
from mmalign.tuners import Part, Plan, SiteConfig, register_part
from mmalign.tuners.parts import with_output

@register_part
class Gain(Part):
    kind = "gain"
    def __init__(self, base, spec):
        super().__init__(base, spec)
        self.gain = nn.Parameter(torch.zeros(()))
    @classmethod
    def count(cls, base, spec):
        return 1
    def forward(self, inner, args, options):
        return with_output(inner(args, options), lambda y: y * (1 + self.gain))

class GainTuner:
    name, identity, Options = "gain", True, Section
    def plan(self, anatomy, options, probe):
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan={b.mlp: [{"kind": "gain"}] for b in anatomy.blocks}))

GAIN = GainTuner()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution with one entry point under ``mmalign.tuners``."""
    (tmp_path / "gain_package.py").write_text(PACKAGE)
    info = tmp_path / "gain_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gain-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmalign.tuners]\ngain = gain_package:GAIN\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.clear()
    yield tmp_path
    parts._KINDS.pop("gain", None)
    sys.modules.pop("gain_package", None)
    registry.clear()


def test_third_party_tuner(package: Path) -> None:
    bare = vit()
    model = attach(vit(), "gain").eval()
    assert trainable_count(model) == declared_count(bare, model.peft_config["default"]) == 2
    assert torch.equal(model(inputs("vit")), bare(inputs("vit")))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.constant_(parameter, 0.5)
    model.save_pretrained(package / "saved")
    parts._KINDS.pop("gain")
    sys.modules.pop("gain_package")
    loaded = PeftModel.from_pretrained(vit(), package / "saved").eval()
    assert torch.equal(loaded(inputs("vit")), model(inputs("vit")))


def test_a_kind_is_taken_once_and_an_unknown_one_is_named() -> None:
    class Delta(Part):
        kind = "delta"

        @classmethod
        def count(cls, base: Any, spec: Any) -> int:
            return 0

        def forward(self, inner: Any, args: Any, options: Any) -> Any:
            return inner(args, options)

    with pytest.raises(
        UserError, match=r"delta: this kind of part is taken by mmalign\.tuners\.delta\.DeltaPart"
    ):
        register_part(Delta)
    with pytest.raises(UserError, match='no part of a tuner is called "detla" .did you mean "delta"'):
        parts.part_class("detla")


def test_import_of_the_package_needs_no_torch() -> None:
    code = "import sys, mmalign.config.tuner; assert 'torch' not in sys.modules and 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
