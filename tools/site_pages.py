"""For mkdocs: the pages that stand outside docs/, and links to them that lead there on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "project"
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root."""
    for name in PAGES:
        files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a page's links as they are in the repository into links as they are on the site."""
    uri = page.file.src_uri
    place = ROOT / (uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}")
    up = "../" if uri.startswith(f"{FOLDER}/") else ""

    def on_the_site(found: re.Match[str]) -> str:
        target, anchor = (place.parent / found[1]).resolve(), found[2] or ""
        if target.parent == ROOT and target.name in PAGES:
            return f"]({up}{FOLDER}/{target.name}{anchor})"
        if target.is_relative_to(ROOT / "docs"):
            return f"]({up}{target.relative_to(ROOT / 'docs')}{anchor})"
        return "](#)" if target.exists() else found[0]  # a file of the repository that is no page

    return LINK.sub(on_the_site, markdown)
