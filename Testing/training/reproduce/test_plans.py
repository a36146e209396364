"""Plans of the paper's tables: every cell has runs, what is missing is named, and the page names every table and its tests."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mass_core.cli import build_parser
from training.reproduce.command import main
from training.reproduce.inputs import DATA, LABELS
from training.reproduce.plan import SAM2_WEIGHTS, Planner
from training.reproduce.report import paper
from training.reproduce.tables import TABLES

from . import test_tables
from .miniature import never, reproduce


def test_a_list_names_every_command_and_everything_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert reproduce(tmp_path, "all", "--dry-run", carry_out=never, small={}) == 3
    told = capsys.readouterr().out
    for one in (*DATA.values(), *LABELS.values()):
        assert one.source in told
    for weights in ("openmind-mae", "suprem-unet", "merlin", "anatomix", SAM2_WEIGHTS, "TotalSegmentator"):
        assert weights in told
    commands = [line.strip() for line in told.splitlines() if line.startswith(" " * 21)]
    assert len(commands) == len(set(commands)) > 300
    parser = build_parser()
    for line in {re.sub("draw[1-9]", "draw0", line) for line in commands if line.startswith("mass ")}:
        parser.parse_args(line.split()[1:])
    assert not (tmp_path / "runs").exists()


def test_every_cell_of_the_paper_has_runs_or_is_a_fact(tmp_path: Path) -> None:
    planner = Planner(data=tmp_path, output=tmp_path / "runs")
    without = [
        (name, *key) for name, one in TABLES.items() for key in paper(one.paper).cells if not one.cell(planner, *key).runs
    ]  # fmt: skip
    assert {name for name, *_ in without} == {"table7"} and all(row != "MASS" or column == "supervision" for _, row, column in without)


def test_the_page_names_every_table_and_its_tests() -> None:
    """One test at least of every table is not slow."""
    page = (Path(__file__).resolve().parents[3] / "docs/reproduce.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `") and "`test_" in line]
    tests = {name: re.findall(r"`(test_\w+)`( \(slow\))?", row[-1]) for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert set(tests) == set(TABLES)
    known = vars(test_tables)
    assert [(name, test) for name, some in tests.items() for test, slow in some if bool(slow) != is_slow(known[test])] == []
    assert [name for name, some in tests.items() if all(slow for _, slow in some)] == []
    assert [name for name in (*DATA, *LABELS) if f"`{name}`" not in page and f"`{name}.csv`" not in page] == []


def is_slow(test: Callable[..., None]) -> bool:
    return any(mark.name == "slow" for mark in getattr(test, "pytestmark", ()))


def test_the_papers_numbers_are_those_of_its_text(shared: Path) -> None:
    """Rows and numbers of each table follow one another there as in our files."""
    file = shared / "paper.txt"
    if not file.is_file():
        pytest.skip("the paper's text is not at hand")
    text = re.sub(r"</?[ui]>", "", file.read_text(encoding="utf-8"))
    rows = [re.split(r"\t+", line.strip("\t")) for line in text.splitlines() if "\t" in line]
    wanted = ("table1", "table3", "table4a", "table4b", "table4c", "table5", "table6", "table9")
    for name in wanted:
        theirs = paper(name)
        for row in theirs.rows:
            numbers = [theirs.cells[row, column] for column in theirs.columns if (row, column) in theirs.cells]
            flat = [value.rstrip("%") for value in numbers]
            assert any(_holds([cell.rstrip("%") for cell in line], [row, *flat]) for line in rows), (name, row, flat)


def _holds(line: Sequence[str], part: Sequence[str]) -> bool:
    names = {"SuPreM": "SuPrem"}
    return any(list(line[at : at + len(part)]) in (list(part), [names.get(part[0], part[0]), *part[1:]]) for at in range(len(line)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("table10",), "There is no 'table10'"),
        (("table1", "--rows", "MASS-IT"), "There is no row 'MASS-IT'"),
        (("table1", "--rows", "Full supervision", "--shots", "7"), "No run is selected"),
        (("table1", "--upstream", "moon"), "--upstream names 'moon'"),
        (("table1", "--add", "cook=--hot"), "--add has 'cook=--hot'"),
        (("table1", "--draws", "0"), "--draws 0"),
        (("table1", "--shots", "few"), "--shots has 'few'"),
        (("table1", "--shard", "4/3"), "The shard is '4/3'"),
    ],
)
def test_bad_orders_are_told(place: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("--data", str(place / "data"), "--output", str(place / "runs"))
    assert main([*folders, *words], never) == 2
    assert told in capsys.readouterr().err
