"""What MkDocs does beside rendering: pages that are made, and pages from elsewhere.

The README, the changelog and the tables of results are pages of the site as well, and
stay where they are; the command line and the settings of each method are written from
the program itself, so that they cannot be wrong. Links are those of the repository, as
GitHub shows them, and are turned into those of the site here.
"""

import posixpath
import re
from pathlib import Path

from generated import command_line, method_names, settings
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BROUGHT = {
    "README.md": "index.md",
    "CHANGELOG.md": "reference/changelog.md",
    "training/RESULTS.md": "reference/results.md",
    "training/benchmarks/README.md": "reference/benchmarks.md",
}
"""File of the repository -> page of the site."""

_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in ``docs``."""
    made = {page: (ROOT / file).read_text("utf-8") for file, page in BROUGHT.items()}
    made["reference/command-line.md"] = command_line()
    for method in method_names():
        made[f"reference/settings/{method}.md"] = settings(method)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turn links within the repository into links within the site."""
    return with_site_links(markdown, page.file.src_uri)


def with_site_links(markdown: str, page: str) -> str:
    """Let every link of a page lead where its file is on the site.

    Parameters
    ----------
    page
        Its place on the site, such as ``review.md``.
    """
    files = {site: file for file, site in BROUGHT.items()}
    source = files.get(page, f"docs/{page}")

    def turned(link: re.Match[str]) -> str:
        opening, target, anchor, closing = link.groups(default="")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = BROUGHT.get(place, place.removeprefix("docs/"))
        there = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
        return f"{opening}{there}{anchor}{closing}"

    return _LINK.sub(turned, markdown)
