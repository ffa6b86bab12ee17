"""Every pair objective: gradient check, masks, invariances, and a loop of scalars written from the papers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmalign.objectives.pair_losses import PAIR_LOSSES, log1mexp
from mmalign.objectives.pairs import PairSettings, divergence_score
from mmalign.objectives.preference import is_coupled, needs_reference, preference_loss

NAMES = sorted(PAIR_LOSSES)


def settings_for(name: str) -> PairSettings:
    return PairSettings((name,), beta=0.4, label_smoothing=0.1 if name in ("exo_pair", "robust") else 0.0)


def draw(seed: int = 0, rows: int = 3) -> dict[str, Tensor]:
    """Pairs with answers of 1 to 6 steps, float64."""
    g = torch.Generator().manual_seed(seed)
    out: dict[str, Tensor] = {}
    for side, width in (("chosen", 4), ("rejected", 6)):
        logp = -torch.rand(rows, width, generator=g, dtype=torch.float64) * 2 - 0.1
        lengths = torch.randint(1, width + 1, (rows, 1), generator=g)
        noise = torch.randn(rows, width, generator=g, dtype=torch.float64)
        out |= {
            f"logp_{side}": logp,
            f"logp_ref_{side}": logp + 0.3 * noise,
            f"mask_{side}": torch.arange(width) < lengths,
        }
    return out


def loss_of(d: dict[str, Tensor], settings: PairSettings) -> Tensor:
    return preference_loss(**d, settings=settings)[0]


@pytest.mark.parametrize("name", NAMES)
def test_gradient_check(name: str) -> None:
    d, settings = draw(), settings_for(name)

    def f(w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        return loss_of(d | {"logp_chosen": w, "logp_rejected": l}, settings)

    assert torch.autograd.gradcheck(
        f, (d["logp_chosen"].requires_grad_(), d["logp_rejected"].requires_grad_())
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_under_the_mask_is_nothing(name: str) -> None:
    d, settings = draw(1), settings_for(name)
    plain = loss_of(d, settings)
    for side in ("chosen", "rejected"):
        for key in (f"logp_{side}", f"logp_ref_{side}"):
            d[key] = torch.where(d[f"mask_{side}"], d[key], torch.full_like(d[key], math.nan))
        d[f"logp_{side}"].requires_grad_()
    dirty = loss_of(d, settings)
    assert dirty.item() == plain.item()
    gradient = torch.autograd.grad(dirty, d["logp_chosen"])[0]
    assert torch.isfinite(gradient).all() and (gradient[~d["mask_chosen"]] == 0).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("apo_down", "discopop")])
def test_a_better_chosen_answer_costs_less(name: str) -> None:
    # apo_down lowers both answers by design; discopop is not monotonic near margin 0
    d, settings = draw(2), settings_for(name)
    d["logp_chosen"].requires_grad_()
    gradient = torch.autograd.grad(loss_of(d, settings), d["logp_chosen"])[0]
    assert gradient.sum().item() < 0


@pytest.mark.parametrize("name", [n for n in NAMES if not PAIR_LOSSES[n].coupled])
def test_uncoupled_losses_are_means_of_their_pairs(name: str) -> None:
    d, settings = draw(3), settings_for(name)
    parts = [loss_of({k: v[i : i + 1] for k, v in d.items()}, settings).item() for i in range(3)]
    assert loss_of(d, settings).item() == pytest.approx(sum(parts) / 3, abs=1e-12)
    assert not is_coupled(settings)


@pytest.mark.parametrize("name", [n for n in NAMES if PAIR_LOSSES[n].coupled])
def test_coupled_losses_are_not(name: str) -> None:
    d, settings = draw(3), settings_for(name)
    parts = [loss_of({k: v[i : i + 1] for k, v in d.items()}, settings).item() for i in range(3)]
    assert abs(loss_of(d, settings).item() - sum(parts) / 3) > 1e-4


@pytest.mark.parametrize("name", [n for n in NAMES if not PAIR_LOSSES[n].reference])
def test_reference_free(name: str) -> None:
    d, settings = draw(4), settings_for(name)
    with_reference = loss_of(d, settings)
    without = loss_of(d | {"logp_ref_chosen": None, "logp_ref_rejected": None}, settings)  # type: ignore[dict-item]
    assert without.item() == with_reference.item() and not needs_reference(settings)


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def loop(name: str, w: float, l: float, rw: float, rl: float, nw: int, nl: int, b: float, e: float) -> float:  # noqa: E741
    """One pair in plain floats: summed log-probs, reference log-probs, lengths, beta, smoothing."""
    m = b * ((w - rw) - (l - rl))
    ls = lambda x: math.log(sig(x))  # noqa: E731
    odds = lambda p: math.log(p / (1 - p))  # noqa: E731
    return {
        "sigmoid": lambda: -ls(m),
        "hinge": lambda: max(0.0, 1 - m),
        "ipo_sum": lambda: ((w - rw) - (l - rl) - 1 / (2 * b)) ** 2,
        "ipo": lambda: ((w - rw) / nw - (l - rl) / nl - 1 / (2 * b)) ** 2,
        "robust": lambda: (-(1 - e) * ls(m) + e * ls(-m)) / (1 - 2 * e),
        "exo_pair": lambda: sig(m) * math.log(sig(m) / (1 - e)) + sig(-m) * math.log(sig(-m) / e),
        "sppo_hard": lambda: (w - rw - 1 / (2 * b)) ** 2 + (l - rl + 1 / (2 * b)) ** 2,
        "apo_zero": lambda: 1 - sig(b * (w - rw)) + sig(b * (l - rl)),
        "apo_down": lambda: sig(b * (w - rw)) + 1 - sig(m),
        "simpo": lambda: -ls(b * (w / nw - l / nl) - 0.5),
        "cpo": lambda: -ls(b * (w - l)) - w / nw,
        "orpo": lambda: -w / nw - b * ls(odds(math.exp(w / nw)) - odds(math.exp(l / nl))),
    }[name]()


@pytest.mark.parametrize(
    "name",
    ["sigmoid", "hinge", "ipo", "ipo_sum", "robust", "exo_pair", "sppo_hard", "apo_zero", "apo_down",
     "simpo", "cpo", "orpo"],
)  # fmt: skip
def test_against_plain_floats(name: str) -> None:
    d, settings = draw(5, rows=1), settings_for(name)
    sums = [
        (d[k][d[m]]).sum().item()
        for k, m in (
            ("logp_chosen", "mask_chosen"),
            ("logp_rejected", "mask_rejected"),
            ("logp_ref_chosen", "mask_chosen"),
            ("logp_ref_rejected", "mask_rejected"),
        )
    ]
    counts = int(d["mask_chosen"].sum()), int(d["mask_rejected"].sum())
    expected = loop(name, *sums, *counts, settings.beta, settings.label_smoothing)
    assert loss_of(d, settings).item() == pytest.approx(expected, abs=1e-10)


def test_tabular_optimum_of_dpo_is_the_tilted_reference() -> None:
    # three answers, Bradley-Terry preferences of a known reward: the minimiser is ref * exp(r / beta) / Z
    reward = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64)
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    beta, theta = 0.5, torch.zeros(3, dtype=torch.float64, requires_grad=True)
    first, second = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    share = torch.sigmoid(reward[first] - reward[second])
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    one = torch.ones(1, 1, dtype=torch.bool)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logp = theta.log_softmax(0)
        total = torch.zeros((), dtype=torch.float64)
        for i, j, p in zip(first, second, share, strict=True):
            args = [x.reshape(1, 1) for x in (logp[i], logp[j], ref[i], ref[j])]
            total = total + p * preference_loss(*args, one, one, PairSettings(beta=beta))[0]
        total.backward()
        return total

    optimizer.step(closure)
    target = (ref + reward / beta).softmax(0)
    assert torch.allclose(theta.detach().softmax(0), target, atol=1e-6)


def test_ld_alpha_counts_the_surplus_once() -> None:
    mask_w, mask_l = torch.tensor([[True] * 4]), torch.tensor([[True, True, False]])
    logp_w, logp_l = torch.tensor([[-1.0, -2.0, -4.0, -8.0]]), torch.tensor([[-1.0, -1.0, 0.0]])
    zero_w, zero_l = torch.zeros_like(logp_w), torch.zeros_like(logp_l)
    settings = PairSettings(beta=1.0, ld_alpha=0.5)
    _, metrics = preference_loss(logp_w, logp_l, zero_w, zero_l, mask_w, mask_l, settings)
    assert metrics["logps/chosen"].item() == -3.0 - 0.5 * 12.0 and metrics["logps/rejected"].item() == -2.0


def test_divergences_agree_near_the_reference() -> None:
    # every f'(t) has slope 1 (js: 1/2) in log t at t = 1 and they differ beyond
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for kind, slope in (
        ("reverse_kl", 1.0),
        ("forward_kl", 1.0),
        ("js_divergence", 0.5),
        ("alpha_divergence", 1.0),
    ):
        gradient = torch.autograd.grad(divergence_score(x, kind, 0.3), x)[0]  # type: ignore[arg-type]
        assert gradient.item() == pytest.approx(slope, abs=1e-12), kind
        assert divergence_score(torch.tensor(-300.0), kind, 0.3).isfinite(), kind  # type: ignore[arg-type]


def test_log1mexp_is_exact_at_both_ends() -> None:
    x = torch.tensor([-1e-6, -1e-3, -0.69, -0.7, -5.0, -50.0], dtype=torch.float64)
    expected = torch.tensor([math.log(-math.expm1(v)) for v in x.tolist()], dtype=torch.float64)
    assert torch.allclose(log1mexp(x), expected, rtol=1e-12)
    assert log1mexp(torch.tensor(0.0)).isfinite()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"beta": 0.0}, "beta > 0"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss_type": ("exo_pair",)}, "label_smoothing > 0"),
        ({"loss_weights": (1.0, 2.0)}, "2 numbers for 1"),
        ({"ld_alpha": 1.5}, "ld_alpha"),
        ({"loss_type": ()}, "at least one"),
    ],
)
def test_settings_are_checked(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PairSettings(**arguments)  # type: ignore[arg-type]


def test_bad_calls_are_named() -> None:
    d = draw()
    with pytest.raises(ValueError, match="unknown loss_type 'dpoo'"):
        loss_of(d, PairSettings(("dpoo",)))
    with pytest.raises(ValueError, match="needs log-probabilities of a reference"):
        loss_of(d | {"logp_ref_chosen": None, "logp_ref_rejected": None}, PairSettings())  # type: ignore[dict-item]
    d["mask_rejected"][1] = False
    with pytest.raises(ValueError, match="pair 1 has an answer without"):
        loss_of(d, PairSettings())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_loss_says_it_reads_it_reads(name: str) -> None:
    """The flags ``smoothed`` and ``divergence`` are what the stage's errors rely on."""
    d, plain = draw(), settings_for(name)
    smoother = replace(plain, label_smoothing=plain.label_smoothing + 0.1)
    other = replace(plain, f_divergence_type="forward_kl")
    assert (loss_of(d, smoother) != loss_of(d, plain)).item() == PAIR_LOSSES[name].smoothed
    assert (loss_of(d, other) != loss_of(d, plain)).item() == PAIR_LOSSES[name].divergence
