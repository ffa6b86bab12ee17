"""The page from a synthetic run: safe, self-contained, repeatable, and honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from mmalign.errors import UserError
from mmalign.report import build_report, compare_runs, headline_table


class Reader(HTMLParser):
    """Collects tags and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag and every attribute that could load something."""
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "data", "poster", "action")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def page(synthetic_run: Path) -> str:
    return build_report(synthetic_run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    found = Reader()
    found.feed(page)
    return found


def test_model_output_is_escaped(page: str, reader: Reader) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page and "script" not in reader.tags


def test_nothing_is_loaded_from_outside(page: str, reader: Reader) -> None:
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert all(load.startswith(("data:", "#")) for load in reader.loads)
    assert any(load.startswith("data:image/png") for load in reader.loads)
    assert "default-src 'none'" in page


def test_everything_a_reader_wants_is_there(page: str) -> None:
    for text in (
        "Before and after", "What it says", "The claim, with its controls", "Training", "Judge and reward models",
        "Make it again", "mmalign run fgaif --output_dir runs/synthetic", "Hallucinated sentences", "n = 16",
        "KL to the start", "Entropy", "Answer length", "Reward by part", "kl_coef: 0.03", "does not hold",
    ):  # fmt: skip
        assert text in page, text
    assert page.count("<svg viewBox") >= 11 and "prefers-color-scheme: dark" in page


def test_every_kind_of_falsehood_is_marked_by_more_than_colour(page: str) -> None:
    for number, kind in enumerate(("object", "attribute", "relation")):
        assert f'<span class="bad type{number}">false {kind}</span>' in page
    assert re.search(r'<span class="tag type0">\u2717 object: \w+', page.replace("&#x2717;", "\u2717"))


def test_ids_in_the_page_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_same_files_give_the_same_bytes(synthetic_run: Path) -> None:
    first = build_report(synthetic_run).read_bytes(), (synthetic_run / "MODEL_CARD.md").read_bytes()
    assert (build_report(synthetic_run).read_bytes(), (synthetic_run / "MODEL_CARD.md").read_bytes()) == first


def test_model_card_has_numbers_and_command(synthetic_run: Path) -> None:
    build_report(synthetic_run)
    card = (synthetic_run / "MODEL_CARD.md").read_text()
    assert "| Hallucinated sentences |" in card and "mmalign run fgaif" in card and "(n = 16)" in card


def test_terminal_table(synthetic_run: Path) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    console.print(headline_table(synthetic_run))
    text = console.export_text()
    assert "scenes-captions, greedy" in text and "better" in text and "value [95 % interval]" in text


@pytest.mark.parametrize(
    "removed", ["metrics.jsonl", "claim.json", "config.yaml", "env.json", "stages", "feedback"]
)
def test_any_missing_file_leaves_a_report(synthetic_run: Path, tmp_path: Path, removed: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(synthetic_run, copy)
    for name in ("evals/sft", "evals/ppo"):
        shutil.rmtree(copy / name / "scenes-captions@T1")
        shutil.rmtree(copy / name / "scenes-pope-adversarial@greedy")
    target = copy / removed
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert "Before and after" in build_report(copy).read_text()


def test_one_arm_and_an_unknown_task_still_make_a_page(synthetic_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(
        synthetic_run / "evals" / "sft" / "scenes-pope-adversarial@greedy", copy / "evals" / "sft" / "mine"
    )
    results = copy / "evals" / "sft" / "mine" / "results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), "task": "<b>mine</b>"}))
    page = build_report(copy).read_text()
    assert "&lt;b&gt;mine&lt;/b&gt;" in page and "<b>mine</b>" not in page
    assert "paired" not in page.partition("<main>")[2]
    assert (
        "<h2>Figures</h2>" in page and "</svg>sft</span>" in page and ">before<" not in page
    )  # nothing was before
    card = (copy / "MODEL_CARD.md").read_text()
    assert "Evaluated below: `sft`." in card and "| metric | value |" in card and "before" not in card
    table = headline_table(copy)
    assert [str(column.header) for column in table.columns] == ["value \\[95 % interval]", "sft"]


def test_a_figure_that_is_not_there_has_no_unit(synthetic_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(synthetic_run, copy)
    for results in copy.glob("evals/*/*/results.json"):
        told = json.loads(results.read_text())
        for entry in told["metrics"].values():
            entry.update(value=None, ci_low=None, ci_high=None)
        results.write_text(json.dumps(told))
    page = build_report(copy).read_text()
    assert "n/a" in page and "n/a %" not in page


def test_only_curves(synthetic_run: Path, tmp_path: Path) -> None:
    shutil.copy(synthetic_run / "metrics.jsonl", tmp_path)
    assert "nothing has been evaluated yet" in build_report(tmp_path).read_text()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run or evaluate something first"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        build_report(tmp_path / "missing")


def test_compare_is_paired_by_id(synthetic_run: Path) -> None:
    evals = synthetic_run / "evals"
    text = compare_runs(evals / "sft", evals / "ppo")
    assert "B against A" not in text and "Hallucinated sentences" in text and "better" in text
    same = compare_runs(evals / "sft" / "scenes-captions@greedy", evals / "sft" / "scenes-captions@greedy")
    assert "better" not in same and "worse" not in same
    across = compare_runs(evals / "ppo" / "scenes-captions@greedy", evals / "ppo" / "scenes-captions@T1")
    assert "worse" in across


def test_compare_refuses_what_does_not_match(synthetic_run: Path, tmp_path: Path) -> None:
    evals = synthetic_run / "evals" / "sft"
    with pytest.raises(UserError, match="share no evaluation"):
        compare_runs(evals / "scenes-captions@greedy", evals / "scenes-pope-adversarial@greedy")
    other = tmp_path / "scenes-captions@greedy"
    shutil.copytree(evals / "scenes-captions@greedy", other)
    text = (other / "samples.jsonl").read_text().replace('"id": "scenes', '"id": "other')
    (other / "samples.jsonl").write_text(text)
    with pytest.raises(UserError, match="share no sample id"):
        compare_runs(evals / "scenes-captions@greedy", other)


def test_reports_need_no_torch(synthetic_run: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mmalign.report import build_report; "
        f"build_report(Path({str(synthetic_run)!r})); sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
