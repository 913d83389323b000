"""Pages of Markdown, and the same as one HTML file with its pictures inside."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from train.run_directory import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto } td, th { padding: .25rem .7rem; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top } img { max-width: 100% }
code, pre { font: 13px/1.45 ui-monospace, monospace; background: #f5f5f3 } pre { padding: .7rem; overflow-x: auto }
td code { white-space: pre-wrap }
"""
# In a Markdown table's cell nothing of the text may be taken for markup.
_ESCAPES = {ord(char): f"&#{ord(char)};" for char in "&<>\"'\\|`*_[]~$!"} | {ord("\n"): "<br>"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the cells are Markdown too."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(text: str) -> str:
    """Text of which nothing is taken for markup, control characters as escapes."""
    shown = "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
    return shown.translate(_ESCAPES)


def code(text: str) -> str:
    """The same as code."""
    return f"<code>{plain(text)}</code>"


def html_page(folder: Path, title: str, markdown: str) -> str:
    """A page of Markdown as HTML; pictures under `folder`/pictures are taken into it."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)

    def embed(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(pictures/[^"]+)"', embed, body)
    return f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>\n{body}"


def write_page(folder: Path, title: str, markdown: str, name: str = "report") -> Path:
    """Write NAME.md, and NAME.html with the pictures of `folder`/pictures inside; returns the Markdown's path."""
    target = folder / f"{name}.md"
    write_atomically(target, markdown + "\n")
    write_atomically(folder / f"{name}.html", html_page(folder, title, markdown))
    return target
