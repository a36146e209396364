"""The documentation site builds strictly; nothing of it is a dead link, every public name has its place, pages look as on GitHub."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mass_core

pytest.importorskip("mkdocs", reason="pip install 'mass-core[docs]'")

from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {REPOSITORY / "README.md": "index.html", REPOSITORY / "mass_core/weights/README.md": "model_card/index.html"}
PAGES |= {page: f"{page.stem}/index.html" for page in sorted((REPOSITORY / "docs").glob("*.md"))}
SHAPES = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "td", "pre", "img", "strong")


class Elements(HTMLParser):
    """Targets of links and pictures, names of places, and numbers of elements within the article."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.counts = dict.fromkeys(SHAPES, 0)
        self.in_article = "<article" not in html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets += [target for name in ("href", "src") if (target := given.get(name))]
        self.places |= {place for name in ("id", "name") if (place := given.get(name))}
        self.in_article = self.in_article or tag == "article"
        if self.in_article and tag in SHAPES:
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.in_article = self.in_article and tag != "article"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@cache
def elements(page: Path) -> Elements:
    return Elements(page.read_text(encoding="utf-8"))


def test_every_link_leads_somewhere(site: Path) -> None:
    dead = []
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]  # whose links begin where the site will lie
    for page in pages:
        for target in elements(page).targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in elements(file).places):
                dead.append((page.relative_to(site).as_posix(), target))
    assert len(pages) > 30 and dead == []


def test_every_public_name_has_its_place(site: Path) -> None:
    homes = mass_core._HOMES
    assert {"__version__", *homes} == set(mass_core.__all__)
    overview = elements(site / "api/index.html").targets
    for name, home in homes.items():
        assert f"mass_core.{home}.{name}" in elements(site / f"api/{home}/index.html").places
        assert any(target.endswith(f"#mass_core.{home}.{name}") for target in overview), name


def test_pages_have_the_lists_and_tables_they_have_on_github(site: Path) -> None:
    """Python-Markdown, which builds the site, wants blank lines and indents that GitHub does without."""
    github = MarkdownIt("commonmark").enable("table")
    for source, page in PAGES.items():
        assert elements(site / page).counts == Elements(github.render(source.read_text(encoding="utf-8"))).counts, source.name


def test_nothing_is_asked_of_other_servers(site: Path) -> None:
    """No font, script or picture; links may lead elsewhere."""
    loaded = re.compile(r"<(?:script|link|img)\b[^>]*\b(?:src|href)=\"?(https?://[^\"\s>]+)")
    assert [found for page in site.rglob("*.html") for found in loaded.findall(page.read_text(encoding="utf-8"))] == []
