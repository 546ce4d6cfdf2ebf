"""All panels of a study on tabs, with one epoch, one seed and one selection in common."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from kdlab.errors import unknown_name
from kdlab.panels import open_panel
from kdlab.panels.jobs import Jobs
from kdlab.panels.live import answer_while_busy
from kdlab.panels.shared import Shared

TABS = {
    "Train": "study",
    "Representations": "representations",
    "Probes": "probes",
    "Attention": "attention",
    "Logits": "logits",
    "Compare": "compare",
}


class Lab(widgets.Tab):
    """Every panel of a study on a tab of its own: `study.lab()`.

    What is chosen on one of the tabs that look inside (epoch, seed, students, pictures) is chosen on all
    of them. Only the tab that is seen measures and draws.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        in_cell: draw only when the lab is used, on the thread that does so.

    Attributes:
        panels: kind -> panel.
        shared: what they have in common.
        jobs: measures for all of them, one thing at a time.

    >>> lab = kdlab.panels.Lab(study, in_cell=True)
    >>> list(lab.panels)
    ['study', 'representations', 'probes', 'attention', 'logits', 'compare']
    >>> lab.show("logits")
    >>> lab.panels["logits"].active, lab.panels["probes"].active
    (True, False)
    >>> lab.close()
    """

    def __init__(self, study: Any, *, in_cell: bool = False) -> None:
        self.study = study
        self.shared, self.jobs = Shared(), Jobs(inline=in_cell)
        self.panels: dict[str, Any] = {}
        common = {"shared": self.shared, "jobs": self.jobs}
        for kind in TABS.values():
            of_its_own = {} if kind == "study" else {**common, "active": False}
            self.panels[kind] = open_panel(study, kind, in_cell=in_cell, **of_its_own)
        super().__init__(
            children=tuple(self.panels.values()),
            titles=tuple(TABS),
            selected_index=0,
            layout=widgets.Layout(width="100%", max_width="1440px"),
        )
        answer_while_busy(self)
        self.observe(self._turn, "selected_index")
        if not in_cell:
            threading.Thread(target=_load_ahead, daemon=True, name="kdlab-load").start()

    def show(self, kind: str) -> None:
        """Turn to a tab: "study", "representations", "probes", "attention", "logits" or "compare".

        Raises:
            UnknownNameError: there is no such tab.
        """
        if kind not in self.panels:
            raise unknown_name("tab", kind, self.panels)
        self.selected_index = list(self.panels).index(kind)

    def _turn(self, change: Any) -> None:
        for number, panel in enumerate(self.panels.values()):
            panel.active = number == change["new"]

    def close(self) -> None:
        """Close all panels; the study goes on."""
        for panel in self.panels.values():
            panel.close()
        super().close()


def _load_ahead() -> None:
    """Import what the first measurements need, so that their figures do not wait for it."""
    import scipy.stats  # noqa: F401
    import sklearn.cluster  # noqa: F401
