from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmalign.cli import claims, doctor
from mmalign.cli.errors import friendly
from mmalign.cli.main import COMMANDS, main
from mmalign.errors import UserError


def exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lst"], 'did you mean "list"'),
        (["run", "fgafi"], 'did you mean "fgaif"'),
        (["run", "fgaif", "--ppo.learning_rat", "1"], 'did you mean "learning_rate"'),
        (["train", "pppo"], "invalid choice"),
        (["report", "no-such-folder"], "not a run folder"),
        (["compare", "a", "b"], "not a run folder"),
        (["list", "modality"], "invalid choice"),
        (["claims", "run"], "name the claim"),
        (["claims", "run", "x", "--seeds", "0"], "at least 1"),
        (["demo", "--modality", "smell"], "there is no such demo"),
        (["new", "modality", "Not-A-Name"], "lower case letters"),
        (["new", "modality", "toy"], "already has this name"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    out, err = capsys.readouterr()
    assert re.search(says, err) and "Traceback" not in err
    assert err.startswith("mmalign: ") and out == ""


def test_interrupt_says_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, friendly():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    with pytest.raises(SystemExit) as stop, friendly():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert stop.value.code == 2
    assert "disk is full" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), friendly():
        raise ZeroDivisionError


def test_list_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--names"]) == 0
    text = capsys.readouterr().out
    for part in ("modalities:", "vision  [mmalign]", "trackers:", "recipes:", "fgaif-quick"):
        assert part in text


def test_list_shows_a_failed_plugin_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmalign.registry.status", lambda group: [("bad", "their-package", "it broke")])
    assert main(["list", "rewards"]) == 0
    assert "bad  [their-package]  FAILED: it broke" in capsys.readouterr().out


def test_doctor_names_missing_extras_and_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "missing", lambda packages: [p for p in packages if p == "soundfile"])
    monkeypatch.setattr("mmalign.registry.status", lambda group: [])
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r'extra audio: missing soundfile; install with: .* -m pip install "mmalign\[audio\]"', text
    )
    assert re.search(r"device: .*threads", text) and "GB free" in text


def test_claims_run_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = {}
    monkeypatch.setattr(
        "mmalign.claims.run.run_claim", lambda name, **rest: seen.update(name=name, **rest) or 1
    )
    flags = ["--seeds", "2", "--quick", "--output_dir", str(tmp_path), "--arms", "dense, shuffled"]
    assert claims.main(["run", "fgaif", *flags]) == 1
    assert seen["arms"] == ("dense", "shuffled") and seen["starts"] == ()
    assert seen["name"] == "fgaif" and seen["seeds"] == 2 and seen["quick"] and seen["output_dir"] == tmp_path


def test_a_stage_alone_on_the_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    flags = ["--config", "toy", "--output_dir", str(run), "--sft.max_steps", "3"]
    assert main(["train", "sft", *flags]) == 0
    done = json.loads((run / "stages" / "sft" / "done.json").read_text())
    assert done["parameters"] > 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert main(["train", "sft", "--config", str(run)]) == 0, (
        "a run folder is a config, and a done stage is kept"
    )
    assert "stages/sft" in capsys.readouterr().out


def test_another_configuration_on_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["train", "sft", "--config", "toy", "--output_dir", str(tmp_path / "run")]
    assert main([*flags, "--sft.max_steps", "2"]) == 0
    assert exit_code([*flags, "--sft.max_steps", "4"]) == 2
    assert "sft.max_steps" in capsys.readouterr().err


def test_user_errors_of_deeper_code_reach_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(cfg: object) -> None:
        raise UserError("rows.jsonl: row 3: the picture cannot be read")

    monkeypatch.setattr("mmalign.pipeline.run.run_recipe", fails)
    assert exit_code(["run", "toy"]) == 2
    assert capsys.readouterr().err == "mmalign: rows.jsonl: row 3: the picture cannot be read\n"
