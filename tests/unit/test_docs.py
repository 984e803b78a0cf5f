"""The documentation names everything there is, leads nowhere wrong, and its examples are Python."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer.main
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.observers.metrics import FAMILIES
from e2i_serving.record import Outcome, PredictionRecord
from e2i_serving.settings import Settings
from e2i_serving.stores.tables import metadata

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"(?ms)^(?P<mark>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=mark)[ \t]*$")

# In pieces, so that this file does not contain what it looks for.
REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "conda.anaconda" + ".org")
HOME = re.compile(r"(?<![\w.}])/(?:home|Users|root)/(?!bentoml\b)[\w.-]+")


def tracked() -> list[Path]:
    """The files in git, and those that would be added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(path for name in set(listed.stdout.split("\0")) if name and (path := ROOT / name).is_file())


FILES = tracked()
PAGES = [path for path in FILES if path.suffix == ".md"]
SOURCES = {str(path.relative_to(ROOT)): path for path in PAGES}


def commands(command: Any, path: str) -> Iterator[str]:
    """Each command that can be run, as it is typed."""
    inner = getattr(command, "commands", None)  # of a group; its class is typer's own or click's, by version
    if inner is None:
        yield path
    else:
        for name, each in inner.items():
            if not each.hidden:
                yield from commands(each, f"{path} {name}")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_documented(name: str) -> None:
    """Each setting's variable is in the table of settings."""
    assert f"`E2I_SERVING_{name.upper()}`" in (DOCS / "settings.md").read_text(encoding="utf-8")


def test_settings_page_is_current() -> None:
    """The table of settings is what the command prints."""
    printed = CliRunner().invoke(app, ["settings", "--format", "markdown"])
    assert printed.exit_code == 0, printed.output
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert printed.stdout.strip() in page, "docs/settings.md is out of date. Run `make docs`."


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(app), "e2i-serving")))
def test_command_is_documented(command: str) -> None:
    """Each command is on the page of commands."""
    assert f"`{command}" in (DOCS / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_metric_is_documented(name: str) -> None:
    """Each metric is on the page of metrics."""
    assert f"`{name}`" in (DOCS / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_generated_sections_are_current(page: Path) -> None:
    """The tables that are made from the code are what the code makes now."""
    current = runpy.run_path(str(ROOT / "tools" / "reference_pages.py"))["current"]
    text = page.read_text(encoding="utf-8")
    assert text == current(text), f"docs/{page.name} is out of date. Run `make docs`."


@pytest.mark.parametrize("name", ["commands", "metrics"])
def test_pages_have_their_generated_sections(name: str) -> None:
    """No page has lost the marks between which its table is made."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert f"<!-- made by `make docs`: {name} -->" in text


def documented(page: str, heading: str) -> list[str]:
    """The names in the first column of the table under a heading, up to the next heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.search(rf"(?ms)^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text)
    assert section, f"docs/{page} has no heading {heading!r}"
    return re.findall(r"(?m)^\| `(\w+)` \|", section[1])


def test_record_is_documented() -> None:
    """Each field of the record is on the page of the record, in its order, and no other."""
    assert documented("record.md", "`PredictionRecord`") == list(PredictionRecord.__struct_fields__)


@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_table_is_documented(table: str) -> None:
    """Each column of a store's table is on the page of the record, in its order, and no other."""
    assert documented("record.md", f"Table `{table}`") == metadata.tables[table].columns.keys()


def test_outcomes_are_documented() -> None:
    """Each outcome is on the page of metrics, and no other."""
    assert sorted(documented("metrics.md", "Outcomes")) == sorted(Outcome)


@pytest.mark.parametrize("source", SOURCES)
def test_links_resolve(source: str) -> None:
    """Each link to a file of the repository, and to a heading in it, leads there."""
    page = SOURCES[source]
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{source} links to {target}, which isn't there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{source} links to {target}, which has no such heading"


@pytest.mark.parametrize("source", SOURCES)
def test_python_examples_compile(source: str) -> None:
    """Each Python block of a page is Python."""
    text = SOURCES[source].read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        if block["language"].strip() in {"python", "py"}:
            line = text.count("\n", 0, block.start())
            compile("\n" * (line + 1) + block["body"], source, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_files_speak_of_no_machine() -> None:
    """No file names a package registry or a folder of somebody's machine."""
    found = []
    for path in FILES:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if any(registry in line for registry in REGISTRIES) or HOME.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_terminal_picture_shows_what_was_printed(tmp_path: Path) -> None:
    """Colours and all, without what is left out, and without anything that is fetched when it is looked at."""
    tool = runpy.run_path(str(ROOT / "tools" / "terminal_picture.py"))
    (tmp_path / "printed").write_text("Identity\n  \033[32mname\033[0m one\nRecord\n  life two\nItem\n  effect three\n")
    svg = tool["picture"]([f"cat {tmp_path}/printed"], dict(os.environ))
    shown = "".join(ET.fromstring(svg).itertext()).replace("\xa0", " ")
    assert "name one" in shown
    assert "effect three" in shown
    assert "life" not in shown
    assert "url(http" not in svg
    assert "@font-face" not in svg


def test_readme_has_a_picture_of_what_there_is() -> None:
    """It shows the books with the headings that they have now."""
    picture = ET.parse(DOCS / "images" / "terminal.svg").getroot()
    shown = "".join(picture.itertext()).replace("\xa0", " ")
    for heading in ("OBSERVED", "ACCEPTED", "DEAD-LETTERED", "BALANCED", "model_digest", "effect-above-threshold"):
        assert heading in shown
    assert "](docs/images/terminal.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_a_picture_of_the_dashboard() -> None:
    """Its panels are the first ones of the overview, under the titles that they have now."""
    picture = ET.parse(DOCS / "images" / "dashboard.svg").getroot()
    shown = set(picture.itertext())
    board = json.loads((ROOT / "dashboards" / "e2i-overview.json").read_text(encoding="utf-8"))
    titles = [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    assert shown >= {board["title"], *titles[:10]}
    assert "No data" not in shown
    assert "](docs/images/dashboard.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
