"""Figures as parts of a web page: data in JSON, a text alternative, a real slider for the keyboard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from kdlab.plots.theme import SLIDER_HEIGHT


@dataclass(frozen=True)
class FigurePart:
    """A figure in the page.

    Attributes:
        key: its id.
        title: heading above it.
        figure: a plotly figure; its frames are gone through by a slider of the page.
        see: what to see, one or two sentences.
    """

    key: str
    title: str
    figure: Any
    see: str

    def html(self) -> str:
        """The figure element, its data and its controls."""
        data, control = split(self.figure)
        summary = str(self.figure.layout.meta["summary"])
        height = int(data["layout"].get("height", 430))
        label = escape(summary, quote=True)
        return (
            f'<figure class="figure" aria-labelledby="{self.key}-title">'
            f'<h3 id="{self.key}-title">{escape(self.title)}</h3>'
            f'<p class="see">{self.see}</p>'
            f'<div class="scroll"><div class="plot" id="{self.key}" role="img" aria-label="{label}" '
            f'style="height:{height}px"></div></div>'
            f"{_slider(self.key, control) if control else ''}"
            f"<figcaption>{escape(summary)}</figcaption>"
            f'<script type="application/json" data-figure="{self.key}">{safe_json(data)}</script>'
            "</figure>"
        )


def split(figure: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The figure without plotly's own slider, and what that slider went through."""
    data = json.loads(figure.to_json())
    layout = data["layout"]
    sliders = layout.pop("sliders", None)
    layout.pop("width", None)
    if not sliders:
        return data, None
    layout["height"] = layout.get("height", 430) - SLIDER_HEIGHT
    first = sliders[0]
    return data, {
        "labels": [step["label"] for step in first["steps"]],
        "active": first.get("active", 0),
        "name": first["currentvalue"]["prefix"].strip(),
        "redraw": bool(first["steps"][0]["args"][1]["frame"]["redraw"]),
    }


def safe_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _slider(key: str, control: dict[str, Any]) -> str:
    labels, active = control["labels"], control["active"]
    return (
        f'<div class="control" data-slider="{key}" data-labels="{escape(json.dumps(labels), quote=True)}" '
        f'data-redraw="{str(control["redraw"]).lower()}">'
        f'<button type="button" class="play" aria-label="Play through: {escape(control["name"])}">▶</button>'
        f'<label for="{key}-slider">{escape(control["name"])}</label>'
        f'<input type="range" id="{key}-slider" min="0" max="{len(labels) - 1}" step="1" value="{active}" '
        f'aria-valuetext="{escape(labels[active])}">'
        f'<output for="{key}-slider">{escape(labels[active])}</output>'
        "</div>"
    )
