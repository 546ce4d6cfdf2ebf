"""Plain aligned tables and remarks for a terminal or a pipe."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, width: int | None = None
) -> str:
    """Rows as text in aligned columns: numbers to the right, words to the left.

    Args:
        rows: one mapping per row; a missing or None value is left blank.
        columns: which keys, in this order; all that occur, where it is None.
        width: wrap the last column to lines of this many characters in all; None does not wrap.
    """
    rows = [dict(row) for row in rows]
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    by_column = [_column([row.get(key) for row in rows]) for key in columns]
    cells = [list(line) for line in zip(*by_column, strict=True)]
    right = [bool(rows) and all(_numeric(row.get(key)) for row in rows) for key in columns]
    widths = [max([len(key)] + [len(line[i]) for line in cells]) for i, key in enumerate(columns)]
    lines = [_line(list(columns), widths, right), _line(["-" * w for w in widths], widths, right)]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    for line in cells:
        if width is None or width - before < 20 or len(line[-1]) <= width - before:
            lines.append(_line(line, widths, right))
            continue
        first, *more = textwrap.wrap(line[-1], width - before)
        lines.append(_line([*line[:-1], first], widths, right))
        lines.extend(" " * before + text for text in more)
    if width is not None:
        lines[1] = lines[1][:width]
    return "\n".join(lines)


def show(value: Any) -> str:
    """One value as a cell's text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | tuple | list | set | frozenset):
        return ", ".join(map(show, value))
    return " ".join(str(value).split())


def _column(values: Sequence[Any]) -> list[str]:
    """The cells of one column; all its fractions with the same number of decimals."""
    fractions = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    if not fractions or not all(map(_numeric, values)):
        return [show(value) for value in values]
    decimals = 0 if all(v.is_integer() for v in fractions) else 2 if max(map(abs, fractions)) >= 1 else 4
    return [show(v) if v is None or not math.isfinite(v) else f"{v:.{decimals}f}" for v in values]


def terminal_width() -> int | None:
    """Characters a line may have, or None when the output goes into a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def remark(text: str) -> None:
    """Tell a person at a terminal what to do next; say nothing in a pipe."""
    if sys.stdout.isatty():
        print(text, file=sys.stderr)


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
    return "  ".join(parts).rstrip()
