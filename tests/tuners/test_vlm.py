"""Tuners on the vision tower of a VLM inside DPO: reference by switching off, no cached features, saved and read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "modalities" / "vision"))

from vision_families import Family, build
from vision_rows import load, make_rows

from mmalign.config.sections import ModelConfig
from mmalign.config.tuner import TunerConfig
from mmalign.data.pairs import Pair
from mmalign.engine.freeze import freeze
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.objectives.preference import PairSettings
from mmalign.pipeline.tuning import tuned
from mmalign.tuners import attach, is_mergeable
from mmalign.types import Row

TUNERS: dict[str, dict[str, Any]] = {
    "spt": {"budget": 0.02, "rank": 2, "batches": 2, "dropout": 0.0, "drop_path": 0.0},
    "bitfit": {},
    "ssf": {},
    "adapter": {"hidden": 4},
    "adaptformer": {"hidden": 4},
    "ast": {"reduction": 8, "kind": "bottleneck"},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return build("llava", tmp_path_factory.mktemp("llava"))


def pairs_of(rows: list[Row]) -> list[Pair]:
    return [
        Pair(replace(row, id=f"{row.id}-w"), replace(row, id=f"{row.id}-l", completion="a blue square ."))
        for row in rows[:2]
    ]


@pytest.mark.parametrize("tuner", TUNERS)
def test_tower_inside_dpo(tuner: str, family: Family, tmp_path: Path) -> None:
    loaded = load(family)
    adapter, rows = loaded.adapter, make_rows(family)
    batch = adapter.collate(rows[:2])
    with torch.no_grad():
        start = adapter.logp(loaded.model, batch).values

    def probe(model: nn.Module) -> Iterator[Tensor]:
        yield from (-adapter.logp(model, adapter.collate([row])).values.mean() for row in rows[:2])

    model = attach(loaded.model, tuner, TUNERS[tuner], scope="vision_tower", probe=probe)
    freeze(model, ("*vision_tower*",))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all("vision_tower" in name and "mmalign_parts" in name for name in trainable)

    reference = Reference(adapter, model, "auto")
    assert reference.how == "adapter_off"
    loss_fn = pair_objective(adapter, model, reference, PairSettings(beta=0.5))
    optimizer = torch.optim.AdamW(trainable.values(), lr=5e-3)
    silent = set(trainable)
    adapter.towers.hits = 0
    for step in range(3):
        optimizer.zero_grad()
        loss_fn(pairs_of(rows), torch.Generator().manual_seed(step)).value.backward()
        silent -= {name for name, p in trainable.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    dead = {name for name in silent if not _unread(name)}
    assert not dead, f"no gradient reached {sorted(dead)[:3]}"
    assert adapter.towers.hits == 0, "a tower with an adapter is never served from the cache"

    torch.testing.assert_close(reference.logp(batch), start, rtol=0, atol=1e-5)
    with torch.no_grad():
        after = adapter.logp(model, batch).values
    assert (after - start).abs().max() > 1e-5
    adapter.save(model, tmp_path)
    again = type(adapter)()
    back = again.load(str(tmp_path))
    assert hasattr(back, "peft_config") != is_mergeable(model)
    with torch.no_grad():
        torch.testing.assert_close(again.logp(back, again.collate(rows[:2])).values, after, rtol=0, atol=1e-5)


def test_prompts_in_a_tower_whose_hidden_states_are_read_are_refused(family: Family) -> None:
    with pytest.raises(UserError, match="hands out what its blocks saw"):
        attach(load(family).model, "vpt", {"n": 2}, scope="vision_tower")
    with pytest.raises(UserError, match="leave the scope empty"):
        attach(load(family).model, "hst", scope="vision_tower")


def test_a_recipe_names_its_tuner(family: Family) -> None:
    loaded = load(family)
    rows = [replace(row, completion=None, chosen=row.completion) for row in make_rows(family)[:2]]
    section = TunerConfig(name="spt", scope="vision_tower", options=TUNERS["spt"], probe_batch_size=1)
    made = SimpleNamespace(
        cfg=SimpleNamespace(model=ModelConfig(tuner=section), seed=0),
        adapter=loaded.adapter,
        training_rows=lambda: rows,
    )
    model: Any = tuned(made, loaded.model)
    assert model.peft_config["default"].tuner == "spt"
    freeze(model, made.cfg.model.freeze)
    made.cfg.model = ModelConfig(tuner=section, lora_r=4)
    with pytest.raises(UserError, match="set one of them"):
        tuned(made, loaded.model)
    made.cfg.model = ModelConfig(tuner=section)
    made.training_rows = lambda: [replace(rows[0], chosen=None)]
    with pytest.raises(UserError, match=f"row {rows[0].id} has none"):
        tuned(made, load(family).model)


def _unread(name: str) -> bool:
    """LLaVA reads the features of the last layer but one: what comes after has no effect on the answer."""
    return ".layers.1." in name or "post_layernorm" in name or "k_proj.mmalign_parts.default.0.beta" in name
