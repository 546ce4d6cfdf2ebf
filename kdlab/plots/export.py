"""Figures and the numbers behind them as files: web page, picture, table."""

from __future__ import annotations

import html
import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import ConfigError
from kdlab.files import whole_file
from kdlab.plots import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from kdlab.probes.result import Result

IMAGES = (".png", ".svg", ".pdf")
PAGES = (".html", ".htm")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1rem; max-width: 1100px; }}
body {{ background: {paper}; color: {ink}; font-family: {font}; }}
figure {{ margin: 0 0 2.5rem; }}
figcaption {{ margin-top: .5rem; line-height: 1.45; max-width: 75ch; }}
</style>
<script>{script}</script>
</head>
<body>
{figures}
</body>
</html>
"""
_FIGURE = """<figure>
<div role="img" aria-label="{alt}">{plot}</div>
<figcaption>{caption}</figcaption>
</figure>"""


def save_figure(fig: go.Figure, path: str | Path, **options: Any) -> Path:
    """Write `fig` in the form that the ending of `path` names: .html, .png, .svg or .pdf.

    Args:
        options: those of `to_html` or `to_image`.

    Returns:
        the file written.

    Raises:
        ConfigError: another ending, or pictures cannot be made here.

    >>> kdlab.plots.save_figure(kdlab.plots.curves(study), "curves.html").stat().st_size > 1_000_000
    True
    """
    suffix = Path(path).suffix.lower()
    if suffix in PAGES:
        return to_html(fig, path, **options)
    if suffix in IMAGES:
        return to_image(fig, path, **options)
    raise ConfigError(
        f"Figures are written as .html, .png, .svg or .pdf, not as {suffix or 'a file without ending'!r}."
    )


def to_html(figures: go.Figure | Sequence[go.Figure], path: str | Path, *, title: str | None = None) -> Path:
    """One web page that needs no network: plotly.js is in it once, for however many figures.

    Each figure's summary stands below it as caption, and is its text for people who cannot see it.

    Args:
        figures: one or several; the page takes its colours from the first.
        path: a file that is there is replaced as a whole.
        title: of the page; the first figure's title if not given.

    Returns:
        The file written.

    Raises:
        ConfigError: no figure.

    >>> path = kdlab.plots.to_html([kdlab.plots.curves(study)], "page.html", title="My study")
    >>> "<title>My study</title>" in path.read_text(encoding="utf-8")
    True
    """
    from plotly.offline import get_plotlyjs

    several: list[Any] = list(figures) if isinstance(figures, list | tuple) else [figures]
    if not several:
        raise ConfigError("There is no figure to write; give at least one.")
    first = several[0]
    dark = first.layout.paper_bgcolor == theme.DARK[theme.PAPER]
    parts = []
    for fig in several:
        summary = html.escape(summary_of(fig), quote=True)
        plot = fig.to_html(
            full_html=False, include_plotlyjs=False, auto_play=False, config={"responsive": True}
        )
        parts.append(_FIGURE.format(alt=summary, plot=plot, caption=summary))
    page = _PAGE.format(
        title=html.escape(title or first.layout.title.text or "kdlab figure"),
        paper=theme.DARK[theme.PAPER] if dark else theme.PAPER,
        ink=theme.DARK[theme.INK] if dark else theme.INK,
        font=theme.FONT,
        script=get_plotlyjs(),
        figures="\n".join(parts),
    )
    path = Path(path)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def to_image(
    fig: go.Figure,
    path: str | Path,
    *,
    width: int = theme.WIDTH,
    height: int | None = None,
    scale: float = 2.0,
) -> Path:
    """A picture of `fig` as it stands (a slider's last place), through kaleido and a Chromium.

    The Chromium is the one that BROWSER_PATH names, or else the first of the usual names that is
    installed. An SVG file carries the summary as its description.

    Args:
        path: ends in .png, .svg or .pdf; a file that is there is replaced as a whole.
        width, height: in pixels at scale 1; the height is the figure's own if not given.
        scale: 2 gives a PNG of twice as many pixels.

    Returns:
        The file written.

    Raises:
        ConfigError: another ending, a size that is not positive, no kaleido, or no Chromium that it can
            start.

    >>> fig = kdlab.plots.curves(study)
    >>> kdlab.plots.to_image(fig, "curves.png")  # it needs a Chromium and kaleido  # doctest: +SKIP
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in IMAGES:
        raise ConfigError(
            f"Pictures are written as {', '.join(IMAGES)}, not as {kind or 'a file without ending'!r}."
        )
    tall = height or fig.layout.height or 430
    if not (width > 0 and tall > 0 and scale > 0):
        raise ConfigError("width, height and scale of a picture must be positive.")
    try:
        kaleido = importlib.import_module("kaleido")  # has no types
    except ImportError:
        raise ConfigError(
            'Pictures need kaleido (pip install "kdlab[images]"); or write a web page, .html, which needs '
            "nothing."
        ) from None
    with _browser():
        try:
            # without MathJax, which plotly would have kaleido fetch from the network
            data: bytes = kaleido.calc_fig_sync(
                fig,
                opts={"format": kind[1:], "width": width, "height": tall, "scale": scale},
                kopts={"mathjax": False},
            )
        except Exception as error:  # kaleido and what it starts raise errors of many kinds
            told = str(error.args[0] if error.args else "").strip().splitlines()
            reason = told[0].rstrip(".") if told else type(error).__name__
            raise ConfigError(
                "No picture could be made: kaleido needs a Chromium or Chrome that it can start "
                f"({reason}). Install one (Debian: apt-get install chromium), or name its program in "
                "BROWSER_PATH, or write a web page, .html."
            ) from error
    if kind == ".svg":
        data = _described(data.decode("utf-8"), summary_of(fig)).encode("utf-8")
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
    return path


def to_csv(result: Result, path: str | Path) -> Path:
    """The numbers behind a figure: the result's long table, as comma-separated UTF-8 text.

    Args:
        result: of any probe.
        path: a file that is there is replaced as a whole.

    Returns:
        The file written.

    Raises:
        ConfigError: not a result of a probe.

    >>> path = kdlab.plots.to_csv(kdlab.probes.learning_curves(study), "curves.csv")
    >>> path.read_text().splitlines()[0]
    'network,seed,epoch,test_accuracy'
    """
    if not hasattr(result, "to_frame"):
        raise ConfigError(
            f"{type(result).__name__} has no table; give the result that the figure was drawn from."
        )
    path = Path(path)
    with whole_file(path) as temporary:
        result.to_frame().to_csv(temporary, index=False, encoding="utf-8")
    return path


def summary_of(fig: go.Figure) -> str:
    """What the figure shows, in words; its title, or "A figure.", where nobody said it."""
    meta = fig.layout.meta
    told = meta.get("summary") if isinstance(meta, dict) else None
    return str(told or fig.layout.title.text or "A figure.")


def find_browser() -> str | None:
    """The Chromium that pictures are made with: BROWSER_PATH, or the first that is installed."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def _browser() -> Iterator[None]:
    """BROWSER_PATH set for kaleido inside the block."""
    before, found = os.environ.get("BROWSER_PATH"), find_browser()
    if before is not None or found is None:
        yield
        return
    os.environ["BROWSER_PATH"] = found
    try:
        yield
    finally:
        del os.environ["BROWSER_PATH"]


def _described(svg: str, summary: str) -> str:
    """`svg` with the summary as its first element, which screen readers tell."""
    start = svg.index("<svg")
    end = svg.index(">", start) + 1
    return f"{svg[:end]}<desc>{html.escape(summary)}</desc>{svg[end:]}"
