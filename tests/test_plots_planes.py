"""Maps side by side, and the numbers that judge a map by the features it was made of."""

from __future__ import annotations

import numpy as np
import pytest

from kdlab import plots, probes
from kdlab.errors import ConfigError


def ring(count: int = 120) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def test_a_true_map_is_perfect_and_a_random_one_is_at_chance() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    same = probes.judge_map(x, 3 * x[:, ::-1] + 5)
    assert same == pytest.approx({key: 1.0 for key in same})
    random = probes.judge_map(x, np.random.default_rng(1).normal(size=(200, 2)))
    assert random["kept"] == pytest.approx(10 / 199, abs=0.03)
    assert random["trustworthiness"] == pytest.approx(0.5, abs=0.05)
    assert random["rank_correlation"] == pytest.approx(0, abs=0.05)


def test_tears_cost_continuity_and_strangers_cost_trustworthiness() -> None:
    x = ring()
    torn = x + np.where(np.arange(len(x)) < len(x) // 2, 10.0, 0.0)[:, None]
    folded = np.stack([x[:, 0], 0 * x[:, 1]], axis=1)  # upper and lower half on one line
    tears, folds = probes.judge_map(x, torn), probes.judge_map(x, folded)
    assert tears["continuity"] < tears["trustworthiness"] and folds["trustworthiness"] < folds["continuity"]
    assert tears["rank_correlation"] < 0.9


@pytest.mark.parametrize(
    ("flat", "k", "says"),
    [(ring(60), 10, "same n points"), (ring() * np.nan, 10, "NaN"), (ring(), 60, "less than half")],
)
def test_what_cannot_be_judged_is_refused(flat: np.ndarray, k: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        probes.judge_map(ring(), flat, k)


def test_maps_stand_side_by_side_with_their_texts() -> None:
    maps = {"ring": ring(40), "line": np.stack([np.arange(40.0), np.zeros(40)], axis=1)}
    fig = plots.planes(maps, np.arange(40) % 3, names="abc", notes={"line": "kept 0.5<br>rank 0.2"})
    texts = [note.text for note in fig.layout.annotations]
    assert texts == ["ring", "line", "kept 0.5<br>rank 0.2"]
    assert [trace.name for trace in fig.data if trace.showlegend is not False] == ["a", "b", "c"]
    assert len(set(fig.data[0].marker.symbol)) == len(set(fig.data[0].marker.color)) == 3
    assert np.allclose(fig.data[1].x, np.arange(40)) and fig.layout.yaxis2.scaleanchor == "x2"
    scale = plots.planes(maps, np.linspace(0, 1, 40))
    assert len(scale.data) == 2 and not scale.layout.showlegend
    assert scale.layout.meta["summary"].startswith("Maps of 40 points: ring, line")


@pytest.mark.parametrize("maps", [{}, {"ring": ring(30)}, {"ring": np.zeros((40, 3))}])
def test_places_that_do_not_fit_are_refused(maps: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError):
        plots.planes(maps, np.zeros(40))
