"""Where in a TOML file something stands: ``tomllib`` says so of a slip of syntax only."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]
"""Keys, and the numbers of tables in an array of tables: ``("step", 0, "text")``."""

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=\s*(.*)$""")


def find_lines(text: str) -> dict[Path, int]:
    r"""Find the lines of all tables and keys.

    Args:
        text: TOML that can be read.

    Returns:
        Line numbers, from 1. Keys inside inline tables and dotted keys are left out.

    >>> find_lines('title = "t"\n[[step]]\ntext = 1\n[step.with]\nx = 2')[("step", 0, "with", "x")]
    5
    """
    found: dict[Path, int] = {}
    table: Path = ()
    counts: dict[str, int] = {}
    closing = ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
        elif header := _HEADER.match(line):
            names = [part.strip(" \"'") for part in header[2].split(".")]
            if header[1] == "[[":
                counts[names[0]] = counts.get(names[0], -1) + 1
            table = (names[0], *([counts[names[0]]] if names[0] in counts else []), *names[1:])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, key[1].strip("\"'")), number)
            for quotes in ('"""', "'''"):
                if key[2].startswith(quotes) and quotes not in key[2][3:]:
                    closing = quotes
    return found


def line_of(lines: dict[Path, int], path: Path) -> int:
    """Find the line of a key, or of the innermost table that it would be in.

    >>> line_of({("step", 0): 7}, ("step", 0, "answer"))
    7
    """
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
