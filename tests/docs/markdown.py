"""Reading the documentation: its pages, their links, and the snippets in them that can be run.

Marks are HTML comments, so that readers don't see them:

- ``<!-- run -->`` before a fenced block: run it, Python in the page's own namespace, console lines in a shell.
- ``<!-- script -->`` before a fenced block: run it as a program of its own, without Django settings.
- ``<!-- file: path -->``, ``<!-- append: path -->`` before a fenced block: write it to a file (tutorials).
- ``<!-- output -->`` before a fenced block: what the page's Python printed since the last such block.
- ``<!-- setup … -->``, ``<!-- run … -->`` with text inside: run that, unseen by readers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_MARK = re.compile(r"^<!--\s*(run|setup|script|file|append|output)(?::\s*(\S+))?\s*(?:-->)?(.*)$")
_FENCE = re.compile(r"^(`{3,})(\w*)\s*$")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A marked piece of a page.

    Attributes:
        what: run, setup, script, file, append or output.
        path: for file and append.
        language: of the fenced block; empty for an unseen one.
        text: what stands in it.
        line: number of its first line in the page.
    """

    what: str
    path: str | None
    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path) -> list[Snippet]:
    """Return the marked snippets of a page, in order; a mark before no block is an error in the page."""
    lines = page.read_text().splitlines()
    found: list[Snippet] = []
    index = 0
    while index < len(lines):
        mark = _MARK.match(lines[index])
        if mark is None:
            # A fence that isn't marked may hold anything, marks included.
            fence = _FENCE.match(lines[index])
            index = _end_of_block(lines, index, fence.group(1)) if fence else index + 1
            continue
        if "-->" not in lines[index]:
            end = next(number for number in range(index, len(lines)) if lines[number].strip() == "-->")
            text = "\n".join(lines[index + 1 : end])
            found.append(Snippet(mark.group(1), mark.group(2), "", text, index + 2))
            index = end + 1
            continue
        fence = _FENCE.match(lines[index + 1])
        assert fence, f"{name_of(page)}:{index + 1}: a mark, but no fenced block follows"
        end = _end_of_block(lines, index + 1, fence.group(1))
        text = "\n".join(lines[index + 2 : end - 1])
        found.append(Snippet(mark.group(1), mark.group(2), fence.group(2), text, index + 3))
        index = end
    return found


def _end_of_block(lines: list[str], index: int, fence: str) -> int:
    """Return the index behind the fenced block that begins at ``index``."""
    return next(number for number in range(index + 1, len(lines)) if lines[number].strip() == fence) + 1


def without_code(text: str) -> str:
    """Return a page's text without fenced blocks and inline code."""
    text = re.sub(r"^(`{3,})\w*\s*\n.*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    return re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make, as GitHub makes them."""
    text = re.sub(r"^(`{3,})\w*\s*\n.*?^\1\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+\s+(.*)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        for heading in headings
    }
