"""kill -9 in the middle of an evaluation, then the same command: nothing differs from an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import ScriptedAdapter, YesTask
from mmalign.evals import evaluate
from pathlib import Path

class Slow(ScriptedAdapter):
    def sample(self, *a, **k):
        time.sleep({pause})
        return super().sample(*a, **k)

YesTask.n = 60
evaluate(Slow(), None, YesTask(), Path(sys.argv[1]), seed=1, temperature=1.0, batch_size=2, progress=False)
"""


def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    program = PROGRAM.format(tests=str(Path(__file__).parent), pause=pause)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_resume_after_kill_equals_uninterrupted(tmp_path: Path) -> None:
    assert start(tmp_path / "whole", 0.0).wait(60) == 0
    for round_number in range(2):
        process = start(tmp_path / "killed", 0.05)
        file, limit = tmp_path / "killed" / "samples.jsonl", time.monotonic() + 60
        wanted = 10 * (round_number + 1)
        while time.monotonic() < limit and (not file.exists() or file.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    lines = file.read_bytes().count(b"\n")
    assert 10 <= lines < 60
    assert start(tmp_path / "killed", 0.0).wait(60) == 0
    for name in ("samples.jsonl", "results.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
