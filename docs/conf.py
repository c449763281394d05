# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds these pages into HTML (make docs) and manual pages (make man)."""

from __future__ import annotations

from pathlib import Path

import imager

project = "imager"
copyright = "the imager authors, GPL-3.0-or-later"
version = release = imager.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# References such as [text](page.md#heading) that lead nowhere are warnings, and warnings are errors.
nitpicky = True
# Two hyphens are an option, not a dash.
smartquotes = False
exclude_patterns = ["drafts"]

html_theme = "alabaster"
html_title = "imager"
html_theme_options = {"page_width": "1080px", "description": "Disk images of used blocks, for bare metal"}
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False


def _purpose(page: Path) -> str:
    """The first sentence of a command's description, for the line of names in its manual page."""
    about = page.read_text().partition("## Description\n\n")[2]
    return about.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")


man_pages = [
    (f"reference/commands/{page.stem}", page.stem, _purpose(page), "", 1)
    for page in sorted((Path(__file__).parent / "reference" / "commands").glob("*.md"))
]
man_make_section_directory = False
