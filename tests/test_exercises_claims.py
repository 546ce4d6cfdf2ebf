"""Claims: the numbers decide, with their spread; only automatic tests stop where one does not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.errors import ConfigError
from kdlab.exercises import claim


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDLAB_STRICT", raising=False)


def test_a_clear_claim_a_weak_one_and_a_false_one() -> None:
    clear, weak, false = (
        claim("it helps", [2.0, 2.2, 1.8]),
        claim("it helps", [3.0, -2.0]),
        claim("it helps", [-1, 0.5]),
    )
    assert (clear.holds, clear.clear, weak.holds, weak.clear) == (True, True, True, False)
    assert not false and not false.holds and not false.clear
    assert clear.mean == pytest.approx(2.0) and clear.spread == pytest.approx(0.2)
    assert str(clear).startswith("✓ holds: it helps\n") and "above 0 in 3 of 3 seeds" in str(clear)
    assert "holds in the mean, but not beyond the spread" in str(weak) and "1 of 2" in str(weak)
    assert str(false).startswith("✗ does not hold in this run")


def test_one_number_proves_nothing() -> None:
    one = claim("it helps", 2.0, unit="points")
    assert one.holds and not one.clear
    assert np.isnan(one.spread)
    assert "+2 points, in one seed; one proves nothing" in str(one)
    assert "holds in this run" in str(one)


def test_no_difference_is_no_claim() -> None:
    assert not claim("it helps", [0.0, 0.0, 0.0])


@pytest.mark.parametrize("values", [torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), (1, 2), iter([1.0, 2.0])])
def test_numbers_may_come_as_anything(values: object) -> None:
    assert claim("it helps", values, each="picture").values == (1.0, 2.0)  # type: ignore[arg-type]


def test_automatic_tests_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDLAB_STRICT", "1")
    assert claim("it helps", [3.0, -2.0]), "a weak claim holds in the mean"
    with pytest.raises(AssertionError, match="does not hold in this run: it helps"):
        claim("it helps", [-1.0])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], float("inf")])
def test_numbers_that_say_nothing_are_refused(values: object) -> None:
    with pytest.raises(ConfigError, match="at least one number, all of them finite"):
        claim("it helps", values)  # type: ignore[arg-type]


def test_the_box_says_it_in_words_and_takes_no_markup_from_a_sentence() -> None:
    html = claim("a < b & c", [1.0, 1.2])._repr_html_()
    assert "Claim ✓ holds" in html and "a &lt; b &amp; c" in html and "border-left:5px solid" in html
    assert "5px double" in claim("no", [-1.0])._repr_html_()
