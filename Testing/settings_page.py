"""The page of all training settings, docs/settings.md, from the classes that hold them.

python -m Testing.settings_page > docs/settings.md
"""

import ast
import inspect
import sys
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from training.classify.config import ClassifyConfig
from training.finetune.config import FinetuneConfig
from training.pretrain.config import RunConfig

PAGES: dict[str, type] = {"pretrain": RunConfig, "finetune": FinetuneConfig, "classify": ClassifyConfig}
"""The configuration class of `python -m training.<name>`."""
ELSEWHERE = {
    "model": "see [formats](formats.md#weights-safetensors)",
    "preprocess": "see [preprocessing](preprocessing.md)",
    "appearance": "intensity changes, as in [training.pretrain](#trainingpretrain)",
}
"""Sections whose fields stand somewhere else; of `training.pretrain` appearance stands here."""
HEAD = """# Settings of training

Every field that `--set` can change, with its default; `section.field=value` reaches one in a section.
The [recipes](training.md#recipes) differ from the defaults as they say.
This page is made from the code: `python -m Testing.settings_page > docs/settings.md`.
"""


def page() -> str:
    """The whole page in Markdown."""
    return HEAD + "".join(f"\n## training.{name}\n{_tables(kind, own=kind is RunConfig)}" for name, kind in PAGES.items())


def _tables(kind: type, section: str = "", own: bool = False) -> str:
    """The fields of a class, and after them those of its sections.

    Args:
        kind: the class.
        section: what its fields' names begin with.
        own: whether `appearance` is told here.
    """
    hints, told = get_type_hints(kind), explained(kind)
    inner = [field for field in fields(kind) if is_dataclass(hints[field.name])]
    rows = [f"| `{section}{field.name}` | {_default(field)} | {told.get(field.name, '')} |" for field in fields(kind) if field not in inner]
    text = "\n| field | default | meaning |\n|---|---|---|\n" + "".join(f"{row}\n" for row in rows)
    for field in inner:
        name = f"{section}{field.name}"
        there = name in ELSEWHERE and not (own and name == "appearance")
        text += f"\n`{name}`: {ELSEWHERE[name]}.\n" if there else _tables(hints[field.name], f"{name}.")
    return text


def explained(kind: type) -> dict[str, str]:
    """Docstrings of the fields of a class, where it has none of its own those of the class it derives from."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    found = {name: text for base in kind.__bases__ if is_dataclass(base) for name, text in explained(base).items()}
    for field, below in zip(made.body, made.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split()).replace("|", "\\|")
    return found


def _default(field: "Field[Any]") -> str:
    if field.default is MISSING:
        return "the recipe's"
    value = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    return f"`{value.lower() if isinstance(field.default, bool | None) else value}`" if value else "empty"


if __name__ == "__main__":
    sys.stdout.write(page())
