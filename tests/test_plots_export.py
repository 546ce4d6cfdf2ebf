"""Figures as files: pages that need no network, pictures, tables; whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_study import FakeStudy

from kdlab import plots, probes
from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.export import find_browser, save_figure, summary_of, to_csv, to_html, to_image


def figure(text: str = 'Accuracy of "KD" is > 90 %.', dark: bool = False) -> go.Figure:
    return theme.apply(go.Figure(go.Scatter(y=[1, 3, 2])), summary=text, title="A <b>title</b>", dark=dark)


# ---- pages -------------------------------------------------------------------------------------------


def test_a_page_holds_plotly_once_and_nothing_from_the_network(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    path = to_html([figure("one"), figure("two")], tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    library = get_plotlyjs()
    assert text.count(library) == 1
    own = text.replace(library, "")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=", own)
    assert len(own) < 50_000
    assert own.count("Plotly.newPlot") == 2 and own.count("<figcaption>") == 2
    assert text.startswith("<!DOCTYPE html>") and 'lang="en"' in own and 'charset="utf-8"' in own


def test_the_summary_is_caption_and_text_alternative(tmp_path: Path) -> None:
    own = to_html(figure(), tmp_path / "page.html").read_text(encoding="utf-8")
    said = "Accuracy of &quot;KD&quot; is &gt; 90 %."
    assert f"<figcaption>{said}</figcaption>" in own
    assert f'role="img" aria-label="{said}"' in own
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in own
    bare = go.Figure(go.Scatter(y=[1]))
    assert summary_of(bare) == "A figure."


def test_a_page_is_as_dark_as_its_figure(tmp_path: Path) -> None:
    light = to_html(figure(), tmp_path / "light.html", title="my page").read_text(encoding="utf-8")
    dark = to_html(figure(dark=True), tmp_path / "dark.html").read_text(encoding="utf-8")
    assert f"background: {theme.PAPER}" in light and "<title>my page</title>" in light
    assert f"background: {theme.DARK[theme.PAPER]}" in dark and f"color: {theme.DARK[theme.INK]}" in dark


def test_real_figures_with_frames_can_be_written(tmp_path: Path) -> None:
    drawn = probes.calibration(FakeStudy()).plot()
    text = save_figure(drawn, tmp_path / "reliability.HTML").read_text(encoding="utf-8")
    assert "Plotly.addFrames" in text and "Expected calibration error" in text


# ---- pictures ----------------------------------------------------------------------------------------


class FakeKaleido:
    """Stands in for the package: notes what it was asked for, and gives a small SVG."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[Mapping[str, Any]] = []
        self.browser: str | None = None

    def calc_fig_sync(self, fig: go.Figure, *, opts: Mapping[str, Any], kopts: Mapping[str, Any]) -> bytes:
        self.asked.append({**opts, **kopts})
        self.browser = os.environ.get("BROWSER_PATH")
        if self.error is not None:
            raise self.error
        return b'<svg xmlns="http://www.w3.org/2000/svg" width="9"><rect/></svg>'


@pytest.fixture
def kaleido(monkeypatch: pytest.MonkeyPatch) -> FakeKaleido:
    fake = FakeKaleido()
    monkeypatch.setitem(sys.modules, "kaleido", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    return fake


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_are_asked_for_as_they_should_be(tmp_path: Path, kaleido: FakeKaleido, suffix: str) -> None:
    fig = figure()
    path = save_figure(fig, tmp_path / f"picture{suffix}", scale=3)
    assert kaleido.asked == [
        {
            "format": suffix[1:],
            "width": theme.WIDTH,
            "height": fig.layout.height,
            "scale": 3,
            "mathjax": False,  # or it would be fetched from the network
        }
    ]
    assert path.read_bytes().startswith(b"<svg")
    assert (b"<desc>Accuracy of" in path.read_bytes()) == (suffix == ".svg")


def test_the_browser_that_is_there_is_used(
    tmp_path: Path, kaleido: FakeKaleido, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "chromium"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_browser() == str(program)
    to_image(figure(), tmp_path / "a.png")
    assert kaleido.browser == str(program) and "BROWSER_PATH" not in os.environ
    monkeypatch.setenv("BROWSER_PATH", "/opt/mine")
    to_image(figure(), tmp_path / "b.png")
    assert kaleido.browser == "/opt/mine" and os.environ["BROWSER_PATH"] == "/opt/mine"


def test_a_browser_that_does_not_start_is_told_of(tmp_path: Path, kaleido: FakeKaleido) -> None:
    kaleido.error = RuntimeError("Kaleido requires Google Chrome.\nlong story")
    old = tmp_path / "picture.png"
    old.write_bytes(b"old")
    with pytest.raises(ConfigError, match="BROWSER_PATH") as caught:
        to_image(figure(), old)
    assert "requires Google Chrome)" in str(caught.value) and "long story" not in str(caught.value)
    assert old.read_bytes() == b"old" and list(tmp_path.iterdir()) == [old]


def test_missing_kaleido_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)  # what makes an import fail
    with pytest.raises(ConfigError, match=r"kdlab\[images\]"):
        to_image(figure(), tmp_path / "picture.png")


@pytest.mark.skipif(
    importlib.util.find_spec("kaleido") is None or find_browser() is None,
    reason="no kaleido or no Chromium here",
)
def test_a_real_picture(tmp_path: Path) -> None:
    from PIL import Image

    path = to_image(figure(), tmp_path / "picture.png", width=400, height=300, scale=2)
    with Image.open(path) as image:
        assert image.size == (800, 600)
    assert "<desc>Accuracy" in to_image(figure(), tmp_path / "picture.svg").read_text(encoding="utf-8")


# ---- tables and refusals -----------------------------------------------------------------------------


def test_a_table_is_the_result(tmp_path: Path) -> None:
    result = probes.fidelity(FakeStudy())
    read = pd.read_csv(to_csv(result, tmp_path / "fidelity.csv"))
    wanted = result.to_frame()
    assert list(read.columns) == list(wanted.columns) and len(read) == len(wanted)
    assert np.allclose(read.agreement, wanted.agreement) and (read.network == wanted.network).all()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("disk full")

    path = tmp_path / "table.csv"
    path.write_text("old")
    broken = SimpleNamespace(to_frame=lambda: SimpleNamespace(to_csv=lambda *a, **k: fail()))
    with pytest.raises(OSError, match="disk full"):
        to_csv(broken, path)  # type: ignore[arg-type]
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda folder: save_figure(figure(), folder / "a.jpeg"), "not as '.jpeg'"),
        (lambda folder: save_figure(figure(), folder / "a"), "file without ending"),
        (lambda folder: to_image(figure(), folder / "a.html"), "Pictures are written as"),
        (lambda folder: to_image(figure(), folder / "a.png", width=0), "must be positive"),
        (lambda folder: to_html([], folder / "a.html"), "no figure"),
        (lambda folder: to_csv(figure(), folder / "a.csv"), "has no table"),
    ],
)
def test_export_refuses(tmp_path: Path, call: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_exports_are_public() -> None:
    assert plots.save_figure is save_figure and plots.to_csv is to_csv
