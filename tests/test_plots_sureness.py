"""How sure student and teacher are of the true class: who lies above the diagonal, and who is right."""

from __future__ import annotations

import numpy as np
from fake_study import FakeStudy

from kdlab import plots, probes
from kdlab.probes.logits import QUADRANTS


def test_points_lie_where_the_networks_are_sure_and_the_share_is_told() -> None:
    logits = {
        "T": [[4.0, 0, 0], [0, 1, 0], [0, 0, 3.0], [2.0, 0, 0]],
        "S": [[1.0, 0, 0], [0, 3, 0], [0, 1, 0.0], [0, 0, 3.0]],
    }
    result = probes.logit_decomposition(logits, target=[0, 1, 2, 2], teacher="T", temperature=1)
    figure = plots.sureness(result)
    points = {t.name: t for t in figure.data if t.name in QUADRANTS}
    assert [len(points[name].x) for name in QUADRANTS] == [2, 1, 1, 0]
    wrong_teacher = points["teacher wrong, student right"]
    np.testing.assert_allclose(wrong_teacher.x, np.exp(0) / (np.exp(2) + 2), atol=1e-4)
    np.testing.assert_allclose(wrong_teacher.y, np.exp(3) / (np.exp(3) + 2), atol=1e-4)
    assert "S: 50 % surer" in figure.layout.annotations[0].text
    assert "S on 50 % of the pictures" in figure.layout.meta["summary"]


def test_a_plot_for_each_student_one_legend_and_both_papers() -> None:
    result = probes.logit_decomposition(FakeStudy(students=("a", "b", "c", "d")))
    figure = plots.sureness(result, title="sure")
    assert len(figure.layout.annotations) == 4 and figure.layout.height > 700  # two rows
    for name in (*QUADRANTS, "student surer than the teacher"):
        assert sum(bool(t.showlegend is not False) for t in figure.data if t.name == name) == 1
    dark = plots.sureness(result, dark=True)
    assert dark.layout.paper_bgcolor != figure.layout.paper_bgcolor
