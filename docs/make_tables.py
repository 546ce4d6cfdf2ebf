"""Write the table of methods into README.md from their own words: `python docs/make_tables.py`."""

from __future__ import annotations

from pathlib import Path

import kdlab

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- methods: made by docs/make_tables.py -->\n", "<!-- end of methods -->\n"


def methods_table() -> str:
    """A Markdown table with a row for each method."""
    rows = ["| key | method | definition |", "|---|---|---|"]
    for row in kdlab.methods.table():
        title = row["title"].removesuffix(" (reconstructed)")
        status = row["status"].replace("reconstruction", "**reconstruction**", 1)
        rows.append(f"| `{row['key']}` | {title}: {row['paper']} | {status} |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """A README with its table renewed."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + methods_table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
