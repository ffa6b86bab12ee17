"""Soups, task arithmetic, TIES, DARE, breadcrumbs and SLERP: identities, plain loops, and peft."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from mmalign.cli.main import main
from mmalign.errors import UserError
from mmalign.tuners.merging import (
    breadcrumbs,
    greedy_soup,
    learned_soup,
    merge_deltas,
    slerp,
    task_vector,
    uniform_soup,
)


def state(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(6, 10, generator=draw),
        "b": torch.randn(10, generator=draw),
        "scalar": torch.randn((), generator=draw),
        "half": torch.randn(4, 5, generator=draw).bfloat16(),
        "count": torch.tensor(seed),
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and set(one) == set(other)


def test_soup_of_one_is_itself_and_of_three_the_mean() -> None:
    assert same(uniform_soup([state(1)]), state(1))
    soup = uniform_soup([state(k) for k in range(3)])
    np.testing.assert_allclose(soup["w"], np.mean([state(k)["w"].numpy() for k in range(3)], 0), rtol=1e-6)
    assert soup["half"].dtype == torch.bfloat16 and soup["count"] == 0


def test_greedy_soup_adds_only_what_helps() -> None:
    states = [{"w": torch.tensor([value])} for value in (3.0, 1.0, -2.5, 2.0)]
    soup, chosen, best = greedy_soup(states, lambda s: -abs(float(s["w"]) - 1.4))
    assert chosen == [1, 3] and best == pytest.approx(-0.1) and soup["w"].item() == pytest.approx(1.5)
    same_score, alone, _ = greedy_soup(states, lambda s: 0.0)
    assert alone == [0] and torch.equal(same_score["w"], states[0]["w"]), "an equal score adds nothing"


@pytest.mark.parametrize("per_tensor", [True, False])
def test_learned_soup_finds_the_mixture(per_tensor: bool) -> None:
    states = [{"a": torch.eye(3), "b": torch.ones(2)}, {"a": torch.zeros(3, 3), "b": torch.zeros(2)}]
    soup, weights = learned_soup(
        states,
        lambda s, beta: (
            ((s["a"] - 0.8 * torch.eye(3)) ** 2).sum() + ((s["b"] - 0.2) ** 2).sum() + (beta - 2) ** 2
        ),
        steps=200,
        per_tensor=per_tensor,
    )
    if per_tensor:
        torch.testing.assert_close(weights["a"][0], torch.tensor(0.8), atol=0.02, rtol=0)
        torch.testing.assert_close(soup["b"], torch.full((2,), 0.2), atol=0.02, rtol=0)
    assert torch.equal(weights["a"], weights["b"]) != per_tensor


def test_task_arithmetic_adds_and_forgets() -> None:
    base, one, two = state(0), state(1), state(2)
    merged = merge_deltas(base, [one, two], weights=[0.5, -2.0])
    want = base["w"] + 0.5 * (one["w"] - base["w"]) - 2.0 * (two["w"] - base["w"])
    torch.testing.assert_close(merged["w"], want)
    assert same(merge_deltas(base, [base]), base)
    torch.testing.assert_close(merge_deltas(base, [one])["w"], one["w"])
    torch.testing.assert_close(task_vector(one, base)["b"], one["b"] - base["b"])


def test_ties_by_a_plain_loop() -> None:
    base, tuned = state(0), [state(1), state(2), state(3)]
    got = merge_deltas(base, tuned, "ties", density=0.3, weights=[1.0, 1.0, 1.0])["w"].numpy().ravel()
    deltas = np.stack([(t["w"] - base["w"]).numpy().ravel() for t in tuned])
    for row in deltas:
        row[np.argsort(-np.abs(row), kind="stable")[int(0.3 * row.size) :]] = 0
    for place in range(deltas.shape[1]):
        column = deltas[:, place]
        sign = 1 if column.sum() >= 0 else -1
        agreeing = [value for value in column if np.sign(value) == sign]
        want = base["w"].numpy().ravel()[place] + (np.mean(agreeing) if agreeing else 0.0)
        assert got[place] == pytest.approx(want, abs=1e-6)


def test_dare_drops_at_random_and_rescales() -> None:
    base = {"w": torch.zeros(200, 200)}
    tuned = {"w": torch.ones(200, 200)}
    merged = merge_deltas(base, [tuned], "dare_linear", density=0.25, seed=1)["w"]
    assert set(merged.unique().tolist()) == {0.0, 4.0}
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(merged, merge_deltas(base, [tuned], "dare_linear", density=0.25, seed=1)["w"])
    assert not torch.equal(merged, merge_deltas(base, [tuned], "dare_linear", density=0.25, seed=2)["w"])
    before = torch.random.get_rng_state()
    merge_deltas(base, [tuned], "dare_ties", density=0.25)
    assert torch.equal(before, torch.random.get_rng_state())


def test_linear_merge_of_lora_equals_peft_s_concatenation_and_not_the_mean_of_factors() -> None:
    def lora(seed: int | None) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
        model = get_peft_model(net, LoraConfig(target_modules=["0", "1"], r=2, lora_alpha=3))
        if seed is not None:
            torch.manual_seed(seed)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    nn.init.normal_(parameter)
        return model

    models = [lora(1), lora(2)]
    joined = lora(1)
    joined.add_adapter("two", LoraConfig(target_modules=["0", "1"], r=2, lora_alpha=3))
    joined.load_state_dict(
        {
            **joined.state_dict(),
            **{k.replace("default", "two"): v for k, v in models[1].state_dict().items() if "lora_" in k},
        }
    )
    for kind in ("cat", "linear"):
        joined.add_weighted_adapter(["default", "two"], [0.3, 0.7], kind, combination_type=kind)
    base = lora(None).unload().state_dict()
    merged = merge_deltas(base, [m.merge_and_unload().state_dict() for m in models], weights=[0.3, 0.7])
    x = torch.randn(4, 6)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    plain.load_state_dict(merged)
    joined.set_adapter("cat")
    torch.testing.assert_close(plain(x), joined(x), rtol=1e-4, atol=1e-5)
    joined.set_adapter("linear")
    assert (plain(x) - joined(x)).abs().max() > 1e-2


def test_breadcrumbs_keep_the_middle_of_every_row() -> None:
    base = {"w": torch.zeros(3, 10), "b": torch.zeros(10), "s": torch.zeros(())}
    delta = torch.arange(1.0, 11.0)
    tuned = {"w": torch.stack([delta, -delta, delta.flip(0)]), "b": delta, "s": torch.tensor(2.0)}
    merged = breadcrumbs(base, [tuned], keep=0.2, drop_top=0.1, scale=0.5)
    assert merged["b"].tolist() == [0.0] * 7 + [4.0, 4.5, 0.0]
    assert ((merged["w"] != 0).sum(-1) == 2).all() and merged["s"] == 1.0
    whole = breadcrumbs(state(0), [state(1), state(2)], keep=1.0, drop_top=0.0, scale=0.7)
    torch.testing.assert_close(
        whole["w"], merge_deltas(state(0), [state(1), state(2)], weights=[0.7, 0.7])["w"]
    )
    with pytest.raises(UserError, match="no shares of one row"):
        breadcrumbs(state(0), [state(1)], keep=0.95, drop_top=0.1)


def test_slerp() -> None:
    one, two = state(1), state(2)
    assert torch.equal(slerp(one, two, 0.0)["w"], one["w"]) and torch.equal(
        slerp(one, two, 1.0)["w"], two["w"]
    )
    two["w"] = two["w"] * (one["w"].norm() / two["w"].norm())
    assert float(slerp(one, two, 0.3)["w"].norm()) == pytest.approx(float(one["w"].norm()), rel=1e-5)
    quarter = slerp({"v": torch.tensor([1.0, 0.0])}, {"v": torch.tensor([0.0, 1.0])}, 0.5)["v"]
    torch.testing.assert_close(quarter, torch.tensor([0.5**0.5, 0.5**0.5]))
    line = slerp(one, {name: 3 * value for name, value in one.items()}, 0.25)["w"]
    torch.testing.assert_close(line, 1.5 * one["w"])
    by_name = slerp(one, two, lambda name: 1.0 if name == "b" else 0.0)
    assert torch.equal(by_name["b"], two["b"]) and torch.equal(by_name["w"], one["w"])


def test_what_does_not_fit_is_named() -> None:
    odd = {**state(1), "w": torch.zeros(2, 2)}
    with pytest.raises(UserError, match=r"model 2 has w in shape \(2, 2\), not \(6, 10\)"):
        uniform_soup([state(0), odd])
    with pytest.raises(UserError, match=r"another architecture \(first difference: extra\)"):
        merge_deltas(state(0), [{**state(1), "extra": torch.zeros(1)}])
    with pytest.raises(UserError, match='did you mean "ties"'):
        merge_deltas(state(0), [state(1)], "tie")
    with pytest.raises(UserError, match="2 weights for 1 models"):
        merge_deltas(state(0), [state(1)], weights=[1.0, 2.0])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmalign import registry

    adapter = registry.load("modalities", "toy")()
    for seed in (0, 1):
        adapter.save(adapter.load(f"toy:{seed}"), tmp_path / str(seed))
    out = tmp_path / "out"
    models = [str(tmp_path / str(seed)) for seed in (0, 1)]
    assert main(["merge", *models, "--out", str(out), "--modality", "toy"]) == 0
    assert "soup of 2 models" in capsys.readouterr().out
    want = uniform_soup([adapter.load(source).state_dict() for source in models])
    assert same(dict(adapter.load(str(out)).state_dict()), want)
    ties = [
        "merge",
        models[1],
        "--base",
        models[0],
        "--method",
        "ties",
        "--out",
        str(tmp_path / "t"),
        "--modality",
        "toy",
    ]
    assert main(ties) == 0
    for wrong, words in (
        (["--out", str(out)], "exists"),
        (["--method", "ties", "--out", str(tmp_path / "x")], "give --base"),
    ):
        with pytest.raises(SystemExit):
            main(["merge", *models, "--modality", "toy", *wrong])
        assert words in capsys.readouterr().err
