"""README and docs are right: links resolve, commands parse, fields exist."""

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import mass_core
from mass_core.cli import build_parser
from mass_core.config import RELEASED_SWITCHES, ModelConfig, Recipe
from mass_core.data.public_layouts import KINDS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), *sorted((REPOSITORY / "mass_core").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every `mass` command of a code block, continued lines joined."""
    lines = [
        line.split(" #")[0].strip() for page in PAGES for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()
    ]
    return sorted({line for line in lines if line.startswith("mass ")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) if "://" not in t]
    assert [t for t in targets if t and not (page.parent / t).exists()] == []


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 3


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


def test_python_examples_use_names_that_exist() -> None:
    sources = [text for page in PAGES for text in blocks(page, "python")]
    imports = [node for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.module == "mass_core" for alias in node.names}
    assert names and names <= set(mass_core.__all__)


def test_every_setting_is_explained() -> None:
    preprocessing = (REPOSITORY / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    formats = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(Recipe) if f"`{field.name}`" not in preprocessing] == []
    assert [field.name for field in fields(ModelConfig) if f"`{field.name}`" not in formats] == []


def test_the_page_of_training_settings_is_that_of_the_code() -> None:
    """Every field, with its default, and a word about each."""
    settings_page = pytest.importorskip("Testing.settings_page")
    text = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert text == settings_page.page(), "make it again: python -m Testing.settings_page > docs/settings.md"
    assert [row for row in text.splitlines() if row.endswith("|  |")] == []


def test_every_mend_has_its_row() -> None:
    preprocessing = (REPOSITORY / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    assert [name for name in RELEASED_SWITCHES if f"| `{name}` |" not in preprocessing] == []


def test_the_tests_named_in_the_table_of_checks_exist() -> None:
    """Names that end with … are the beginning of one."""
    table = (REPOSITORY / "docs/preprocessing.md").read_text(encoding="utf-8")
    files = [path for folder in ("core", "training") for path in (REPOSITORY / "Testing" / folder).glob("test_*.py")]
    named = re.findall(r"`(?:Testing/training/)?(test_\w+)(\.py|…)?`", table)
    assert {f"{name}.py" for name, ending in named if ending == ".py"} <= {path.name for path in files}
    tests = "\n".join(path.read_text(encoding="utf-8") for path in files)
    wanted = [f"def {name}" + ("" if ending else "(") for name, ending in named if ending != ".py"]
    assert len(wanted) > 30 and [text for text in wanted if text not in tests] == []


def test_every_kind_of_dataset_has_its_row() -> None:
    datasets = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert [name for name in KINDS if f"\n| `{name}` |" not in datasets] == []
