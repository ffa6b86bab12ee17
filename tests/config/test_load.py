from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mmalign.config.describe import describe
from mmalign.config.load import config_hash, dump_config, load_config, recipe_names, save_config
from mmalign.config.schema import PPOConfig, RunConfig
from mmalign.errors import UserError


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_round_trips(name: str, tmp_path: Path) -> None:
    cfg = load_config(name)
    save_config(cfg, tmp_path / "again.yaml")
    again = load_config(tmp_path / "again.yaml")
    assert again == cfg and config_hash(again) == config_hash(cfg)


def test_exponents_are_numbers(tmp_path: Path) -> None:
    # PyYAML reads 1e-4 (no dot, no sign) as a string.
    cfg = load_config(write(tmp_path, "ppo: {learning_rate: 1e-4}"), ["--ppo.kl_coef", "2e-2"])
    assert cfg.ppo.learning_rate == 1e-4 and cfg.ppo.kl_coef == 2e-2


@pytest.mark.parametrize(
    "text",
    [
        "seed: true",
        "seed: 1.0",
        "seed: '1'",
        "ppo: {gamma: true}",
        "guard: {enabled: 1}",
        "ppo: {kl_coef: .nan}",
    ],
)
def test_no_silent_conversion(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_config(write(tmp_path, text))


def test_flags_follow_the_type_of_their_field() -> None:
    cfg = load_config(
        "fgaif",
        [
            "--evaluate.temperatures", "0,0.7", "--stages", "[sft]", "--guard.allow_unused_media", "--seed=-3",
            "--ppo.kl_target", "null", "--model.lora_target_modules", "q_proj,v_proj", "--output-dir", "1",
            "--feedback.judge_options", "{rate: 2, model: x}", "--model.torch_dtype", "bfloat16",
            "--evaluate.task_options", "{repeats: 2, kind: count}",
        ],
    )  # fmt: skip
    assert cfg.evaluate.temperatures == (0.0, 0.7) and cfg.stages == ("sft",) and cfg.seed == -3
    assert cfg.guard.allow_unused_media and cfg.ppo.kl_target is None and cfg.output_dir == "1"
    assert cfg.model.lora_target_modules == ("q_proj", "v_proj")
    assert cfg.feedback.judge_options == {"rate": 2, "model": "x"}
    assert cfg.evaluate.task_options == {"repeats": 2, "kind": "count"}
    assert (
        load_config("fgaif", ["--model.lora_target_modules", "all-linear"]).model.lora_target_modules
        == "all-linear"
    )


def test_a_flag_on_one_weight_keeps_the_others() -> None:
    plain = load_config("fgaif").reward.weights
    assert load_config("fgaif", ["--reward.weights.relation", "0.5"]).reward.weights == {
        **plain,
        "relation": 0.5,
    }


def test_all_problems_come_at_once_with_file_key_and_nearest(tmp_path: Path) -> None:
    file = write(tmp_path, "ppo: {learning_rat: 1, max_steps: x}\nkl_coef: 1\ngrpo: {num_generations: 1}\n")
    with pytest.raises(UserError) as caught:
        load_config(file, ["--sft.max_stepz", "3", "--data", "x"])
    text = str(caught.value)
    for part in (
        "6 problems",
        'mine.yaml: ppo.learning_rat: unknown key (did you mean "learning_rate"?)',
        "mine.yaml: ppo.max_steps: should be a valid integer",
        "mine.yaml: kl_coef: unknown key (did you mean ppo.kl_coef",
        "mine.yaml: grpo.num_generations: grpo compares answers",
        '--sft.max_stepz: unknown key (did you mean "max_steps"?)',
        "--data: is a section",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", r"line \d+: not readable"),
        ("- a", "expected keys and values"),
        ("seed: 1\nseed: 2", "there twice"),
        ("extends: mine.yaml", "extends itself"),
        ("extends: fgaiff", "no such recipe"),
        ("ppo: {kl_placement: loss, kl_ratio_correction: false}", "expected gradient of 0"),
    ],
)
def test_bad_files(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("source", "flags", "says"),
    [
        ("fgafi", [], 'did you mean "fgaif"'),
        ("no/such.yaml", [], "no such file"),
        ("fgaif", ["seed"], "expected a flag"),
        ("fgaif", ["--seed"], "expected a value"),
        ("robot-ppo", ["--recipe", "bc"], "called after the recipe that it follows, here robot-ppo"),
    ],
)
def test_bad_sources_and_flags(source: str, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config(source, flags)


def test_extends_merges_sections_and_replaces_lists(tmp_path: Path) -> None:
    cfg = load_config(
        write(tmp_path, "extends: toy\nstages: [sft]\nppo: {max_steps: 1}\nreward: {weights: {object: 2}}")
    )
    assert cfg.modality == "toy" and cfg.stages == ("sft",) and cfg.ppo.max_steps == 1
    assert cfg.ppo.kl_coef == load_config("toy").ppo.kl_coef
    assert cfg.reward.weights == {"object": 2.0}
    assert cfg.recipe == "toy"


def test_sections_are_frozen() -> None:
    cfg = load_config("fgaif")
    with pytest.raises(ValidationError):
        cfg.ppo.max_steps = 3  # type: ignore[misc]


def test_the_hash_ignores_where_and_sees_what() -> None:
    base = config_hash(load_config("fgaif"))
    assert config_hash(load_config("fgaif", ["--output_dir", "elsewhere"])) == base
    assert config_hash(load_config("fgaif", ["--seed", "7"])) != base


def test_ppo_defaults_follow_the_checklist() -> None:
    cfg = PPOConfig()
    assert (cfg.gamma, cfg.lam, cfg.cliprange, cfg.cliprange_value) == (1.0, 0.95, None, 0.2)
    assert (cfg.kl_coef, cfg.kl_estimator, cfg.kl_placement) == (0.05, "k1", "reward")
    assert (cfg.num_ppo_epochs, cfg.num_minibatches, cfg.loss_type) == (4, 4, "dapo")
    assert 3 <= cfg.critic_learning_rate / cfg.learning_rate <= 10


def test_every_field_is_documented() -> None:
    def bare(schema: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, info in schema.model_fields.items():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += bare(kind, f"{prefix}{name}.")
            elif not info.description:
                found.append(prefix + name)
        return found

    assert bare(RunConfig) == []
    assert "--ppo.kl_coef 0.05" in describe() and "--recipe" not in describe()


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-8, 1.0), st.integers(-(2**40), 2**40), st.text(min_size=1, max_size=20))
def test_values_survive_yaml(rate: float, seed: int, name: str) -> None:
    import yaml

    cfg = RunConfig(recipe=name, seed=seed, ppo=PPOConfig(learning_rate=rate))
    assert RunConfig.model_validate(yaml.safe_load(dump_config(cfg))) == cfg
