"""Small pieces of HTML that several parts of a report use."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kdlab.plots import theme

_DASHARRAYS = {
    "solid": "none",
    "dash": "6 4",
    "dot": "2 3",
    "dashdot": "6 3 2 3",
    "longdash": "10 4",
    "longdashdot": "10 3 2 3",
}


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    text: Sequence[int] = (),
    described_by: str = "",
) -> str:
    """A table whose first column names the rows; it scrolls sideways on a narrow page.

    Args:
        head: plain text of the column heads.
        rows: HTML of the cells.
        caption: HTML above the table.
        text: columns that hold words, and so are set to the left.
        described_by: id of a paragraph that explains the table.
    """

    def kind(column: int) -> str:
        return ' class="text"' if column in text else ""

    heads = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(head))
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(others, 1))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    label = f' aria-describedby="{described_by}"' if described_by else ""
    above = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table{label}>{above}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def badge(status: str) -> str:
    """The status of a method as a small label; a reconstruction stands out."""
    kind = " recon" if status == "reconstruction" else ""
    return f'<span class="badge{kind}">{escape(status)}</span>'


def network(name: str, students: Sequence[str], teachers: Sequence[str]) -> str:
    """A network's name behind a short piece of its line, as in the figures."""
    look = theme.styles(students, teachers).get(name)
    role = " (teacher)" if name in teachers else ""
    if look is None:
        return escape(name) + role
    color = "currentColor" if look.color in (theme.INK, theme.MUTED) else look.color
    line = (
        f'<line x1="1" y1="6" x2="29" y2="6" stroke="{color}" stroke-width="3" '
        f'stroke-dasharray="{_DASHARRAYS[look.dash]}"/>'
    )
    return f'<svg class="key" width="30" height="12" aria-hidden="true">{line}</svg>{escape(name)}{role}'


def small(html: str) -> str:
    """A remark in smaller type."""
    return f'<span class="small">{html}</span>'


def code(text: str, label: str) -> str:
    """A block of code that the keyboard can scroll."""
    return f'<pre tabindex="0" aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def missing(reason: str) -> str:
    """A sentence in the place of a part that could not be made."""
    return f'<p class="missing">This part could not be made. {escape(reason)}</p>'
