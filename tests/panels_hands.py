"""What tests do to a panel without a browser, and how they read what it shows."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import plotly.graph_objects as go

import kdlab
from kdlab.panels.analysis import AnalysisPanel

AnyPanel = TypeVar("AnyPanel", bound=AnalysisPanel)


def until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def with_page(panel: AnalysisPanel) -> AnalysisPanel:
    """The panel, with a page that answers its pulse."""
    panel.observe(lambda sent: panel.set_trait("seen", sent["new"]), "sent")
    return panel


@contextmanager
def opened(kind: type[AnyPanel], study: Any) -> Iterator[Callable[..., AnyPanel]]:
    """What opens panels of this study (or `of` another), each with a page; they are closed at the end."""
    made: list[AnyPanel] = []

    def panel(of: Any = None, in_cell: bool = True, **more: Any) -> AnyPanel:
        made.append(kind(study if of is None else of, in_cell=in_cell, **more))
        with_page(made[-1])
        return made[-1]

    try:
        yield panel
    finally:
        for one in made:
            one.close()


def ask(panel: AnalysisPanel, **message: Any) -> None:
    """What the page sends."""
    panel._handle_custom_msg({"id": panel.live["answered"] + 1, **message}, [])


def control(panel: AnalysisPanel, name: str) -> dict[str, Any]:
    return next(c for c in panel.live["controls"] if c["name"] == name)


def options(panel: AnalysisPanel, name: str) -> dict[Any, str]:
    return {option[0]: option[1] for option in control(panel, name)["options"]}


def choose(panel: AnalysisPanel, **values: Any) -> None:
    """Give controls values, as the page does."""
    for name, value in values.items():
        ask(panel, do="control", name=name, value=value)


def in_python(panel: AnalysisPanel) -> go.Figure:
    """The figure that the panel's lines of Python give."""
    *lines, last = ast.parse(panel.live["code"]).body
    names = {"kdlab": kdlab, "study": panel.study}
    exec(compile(ast.Module(lines, []), "panel", "exec"), names)
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "panel", "eval"), names)


def same_figure(panel: AnalysisPanel) -> bool:
    """Whether the lines of Python give the very figure that is shown."""
    assert panel.fig is not None
    return json.loads(in_python(panel).to_json()) == json.loads(panel.fig.to_json())
