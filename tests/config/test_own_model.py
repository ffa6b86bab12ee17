"""Settings for an embedded model of a million parameters never reach a user's own model."""

from __future__ import annotations

from pathlib import Path

from mmalign.config.load import load_config


def test_own_model_replaces_the_small_models_settings() -> None:
    small = load_config("fgaif")
    assert small.model.lora_r == 0
    for flags in (["--model.model_name_or_path", "org/model"], ["--model.model_name_or_path=org/model"]):
        own = load_config("fgaif", flags)
        assert own.ppo.learning_rate == 1e-5 < small.ppo.learning_rate
        assert own.model.lora_r == 16
        assert own.reward_model.train_trunk
        assert own.reward.length == small.reward.length


def test_embedded_names_keep_the_small_models_settings() -> None:
    for name in ("embedded", "embedded:1"):
        cfg = load_config("fgaif", ["--model.model_name_or_path", name])
        assert cfg.ppo == load_config("fgaif").ppo


def test_flags_and_files_win_over_own_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: fgaif\nmodel: {model_name_or_path: org/model}\nppo: {learning_rate: 3e-6}\n")
    assert load_config(file).ppo.learning_rate == 3e-6
    assert load_config(file).ppo.kl_coef == 0.05
    assert load_config(file, ["--ppo.kl_coef", "0.2"]).ppo.kl_coef == 0.2
