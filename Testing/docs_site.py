"""Pages of the documentation site from outside docs/: README, model card, one for every module with public names. A hook of MkDocs."""

import posixpath
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import mass_core

REPOSITORY = Path(__file__).resolve().parents[1]
OUTSIDE = {"README.md": "index.md", "mass_core/weights/README.md": "model_card.md"}
"""Page of the site by Markdown file outside docs/, both as POSIX paths."""
API = """# Python library

`import mass_core` gives these names. Each is loaded when it is first used.

"""


def public_modules() -> Iterator[tuple[str, list[str]]]:
    """Modules of `mass_core` with public names, and these names."""
    for module, names in groupby(sorted(mass_core._HOMES, key=mass_core._HOMES.__getitem__), key=mass_core._HOMES.__getitem__):
        yield module, list(names)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation is the list of pages in README, and the reference of the library."""
    listed = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("\n## Documentation\n")[2].partition("\n## ")[0]
    notebooks, *sections = re.split(r"^\*\*(.+)\*\*$", listed, flags=re.MULTILINE)
    config.nav = [
        {"MASSSlicer": "index.md"},
        {"Notebooks": _pages(notebooks)},
        *({title: _pages(text)} for title, text in zip(sections[::2], sections[1::2], strict=True)),
        {"Model card": OUTSIDE["mass_core/weights/README.md"]},
        {"Python library": ["api/index.md", *({", ".join(names): f"api/{module}.md"} for module, names in public_modules())]},
    ]
    return config


def _pages(text: str) -> list[str]:
    """Pages of docs/ that a text links to, in its order."""
    return list(dict.fromkeys(re.findall(r"\]\(docs/([^)#]+)", text)))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    overview = API
    for module, names in public_modules():
        text = f"# {', '.join(f'`{name}`' for name in names)}\n\n" + "".join(f"::: mass_core.{module}.{name}\n\n" for name in names)
        files.append(File.generated(config, f"api/{module}.md", content=text))
        overview += "".join(f"- [`{name}`]({module}.md#mass_core.{module}.{name})\n" for name in names)
    files.append(File.generated(config, "api/index.md", content=overview))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    folder = posixpath.dirname(page.file.src_uri) or "."
    return re.sub(r"(?<=\]\()(?![a-z]+:|#)[^)\s#]+", lambda link: posixpath.relpath(_target(page, link[0]), folder), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Do the same in notebooks, which come as HTML."""

    def moved(link: "re.Match[str]") -> str:
        file = files.get_file_from_path(_target(page, link[0]))
        assert file is not None, f"{page.file.src_uri} has a dead link, {link[0]}"
        return file.url_relative_to(page.file)

    return re.sub(r'(?<=href=")(?![a-z]+:|#)[^"#]+\.(md|ipynb)', moved, html) if page.file.src_uri.endswith(".ipynb") else html


def _target(page: Page, link: str) -> str:
    """Page of the site, or picture, a link between files of the repository leads to."""
    source = next((source for source, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return OUTSIDE.get(target, target.removeprefix("docs/"))
