"""Exercises: right answers pass, wrong ones are called by their name, and nothing a learner does raises."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlab import exercises, losses
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.exercises import answers, check, check_value, helping, predict, predictions, revisit
from kdlab.exercises.catalogue import EXERCISES, QUESTIONS
from kdlab.exercises.exercise import answer_of, build
from kdlab.exercises.properties import PROPERTIES

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = sorted(EXERCISES)
WANTED = {
    *(
        "softmax_t",
        "kd",
        "tckd",
        "nckd",
        "dkd",
        "nkd",
        "logit_standardisation",
        "dist",
        "attention_map",
        "at",
    ),
    *("fitnet_hint", "similarity_matrix", "sp", "rkd_distance", "pkt", "cka", "srrl", "teacher_average"),
    *("entropy_weight", "effective_rank", "ece", "probe_selectivity", "temperature_fit"),
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predictions of a test are kept in its own folder, and nothing is remembered from another test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDLAB_ANSWERS", raising=False)
    answers._MEMORY.clear()
    helping._GIVEN.clear()
    return tmp_path


# ---- the catalogue ----------------------------------------------------------------------------------


def test_the_exercises_of_the_course_are_there() -> None:
    assert set(EXERCISES) >= WANTED
    table = exercises.table()
    assert set(table.index) == set(EXERCISES) | set(QUESTIONS)
    assert list(table["notebook"]) == sorted(table["notebook"])
    assert exercises.names(notebook=8)[:2] == ["teacher_average", "entropy_weight"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_reference_and_the_solution_pass(name: str) -> None:
    reference = EXERCISES[name].reference
    for function in (lambda *args: reference(*args), build(EXERCISES[name])):
        verdict = check(name, function)
        assert verdict.passed and verdict, str(verdict)
        assert verdict.held[0] == PROPERTIES["arguments"].holds
        assert PROPERTIES["value"].holds in verdict.held


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_known_mistake_is_called_by_its_name(name: str) -> None:
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        verdict = check(name, build(exercise, mistake))
        assert not verdict.passed, mistake.says
        assert (verdict.property, verdict.message) == (mistake.property, mistake.says)
        assert verdict.mistake == mistake.says
        assert PROPERTIES[mistake.property].holds not in verdict.held


def test_known_mistakes_are_sentences_of_their_own() -> None:
    for exercise in EXERCISES.values():
        said = [mistake.says for mistake in exercise.mistakes]
        assert len(set(said)) == len(said), exercise.name
        assert all(mistake.property in PROPERTIES for mistake in exercise.mistakes)
        for text in (exercise.task, *said, *exercise.hints):
            assert text[-1] in ".?)" or "`" in text[-2:] or text[-1] == ":", text


def test_an_edit_that_changes_nothing_is_refused() -> None:
    from kdlab.exercises.exercise import wrong

    with pytest.raises(ConfigError, match="no 'tau\\*\\*3'"):
        build(EXERCISES["kd"], wrong("value", "says", ("tau**3", "")))


# ---- mutants, written as a learner would write them -------------------------------------------------


def kd_with(
    factor: Callable[[float], float] = lambda tau: tau**2, reduction: str = "batchmean", swap: bool = False
) -> Callable[..., torch.Tensor]:
    def answer(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
        first, second = s / T, t.detach() / T
        if swap:
            first, second = second, first
        divergence = F.kl_div(
            F.log_softmax(first, 1), F.log_softmax(second, 1), reduction=reduction, log_target=True
        )
        return factor(T) * divergence

    return answer


def detached_student(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
    return losses.kd(s.detach(), t.detach(), T).requires_grad_()


def teacher_learns(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
    return losses.kd(s, t, T)


def unstable(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
    p_t, p_s = torch.softmax(t.detach() / T, 1), torch.softmax(s / T, 1)
    return T * T * (p_t * (torch.log(p_t) - torch.log(p_s))).sum(1).mean()


def partly_detached(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
    value = losses.kd(s, t.detach(), T)
    return value.detach() + 0.5 * (value - value.detach())


def in_place(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
    t /= T
    return losses.kd(s, T * t.detach(), T)


def plain_number(s: torch.Tensor, t: torch.Tensor, T: float) -> float:
    return losses.kd(s, t, T).item()


@pytest.mark.parametrize(
    ("answer", "property", "says"),
    [
        (kd_with(lambda tau: 1.0), "temperature", "tau^2 is missing"),
        (kd_with(lambda tau: tau), "temperature", "must be tau^2"),
        (kd_with(reduction="mean"), "reduction", "batchmean"),
        (kd_with(reduction="sum"), "reduction", "mean"),
        (kd_with(swap=True), "order", "swapped"),
        (kd_with(lambda tau: -(tau**2)), "value", "sign"),
        (kd_with(lambda tau: 2 * tau**2), "value", "twice"),
        (kd_with(lambda tau: tau**4), "temperature", "tau^2 times too large"),
        (kd_with(lambda tau: 1.0, reduction="mean"), "reduction", "second factor"),
        (kd_with(reduction="none"), "result", "shape"),
        (detached_student, "gradient", "student"),
        (teacher_learns, "teacher", "detach"),
        (unstable, "stability", "log"),
        (partly_detached, "slope", "gradient"),
        (in_place, "inputs", "in place"),
        (plain_number, "result", "has no gradient"),
    ],
)
def test_mutants_of_kd_break_the_right_property(
    answer: Callable[..., object], property: str, says: str
) -> None:
    verdict = check("kd", answer)
    assert not verdict.passed
    assert verdict.property == property, str(verdict)
    assert says in verdict.message
    assert PROPERTIES[property].holds not in verdict.held


def test_what_is_right_is_told_up_to_the_broken_property() -> None:
    verdict = check("kd", kd_with(lambda tau: 1.0))
    assert verdict.held[:2] == ("takes the arguments", "returns the right shape")
    assert verdict.held[-1] == PROPERTIES["reduction"].holds
    # What nobody tested is not said to hold: an unexplained value may have any cause.
    strange = check("kd", lambda s, t, T: losses.kd(s, t.detach(), T) ** 1.3)
    assert strange.property == "value"
    assert not {PROPERTIES[key].holds for key in ("reduction", "temperature", "order")} & set(strange.held)


def test_the_input_on_which_it_shows_can_be_tried_again() -> None:
    answer = kd_with(lambda tau: 1.0)
    verdict = check("kd", answer)
    s, t, tau = verdict.inputs
    assert float(answer(s, t, tau)) == pytest.approx(float(losses.kd(s, t, tau)) / tau**2, rel=1e-4)
    assert verdict.expected == f"{float(losses.kd(s, t, tau)):.5g}"
    assert verdict.got == f"{float(answer(s, t, tau)):.5g}"
    assert (
        "student_logits = [[2, 1, 0], [0.5, 1.5, 0]]" in verdict.example
        and "temperature = 4" in verdict.example
    )


def test_a_gradient_that_is_not_finite_is_told() -> None:
    def rooted(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        def distances(x: torch.Tensor) -> torch.Tensor:
            d = (x[:, None] - x[None]).square().sum(2).sqrt()  # its slope at 0 is infinite
            return d / d[d > 0].mean()

        return F.smooth_l1_loss(distances(student), distances(teacher.detach()))

    verdict = check("rkd_distance", rooted)
    assert verdict.property == "stability" and "gradient" in verdict.message and "root" in verdict.message


@pytest.mark.parametrize(
    "answer",
    [
        lambda s, t, T: (s - t.detach()).square().mean(),
        lambda s, t, T: s[:, :1].square().mean(),
        lambda s, t, T: losses.kd(s, t.detach(), T) + 0.01,
    ],
)
def test_a_wrong_value_without_a_name_is_still_a_verdict(answer: Callable[..., object]) -> None:
    verdict = check("kd", answer)
    assert verdict.property in ("value", "invariance") and not verdict.mistake
    assert verdict.expected and verdict.got and verdict.example


def test_other_right_ways_pass() -> None:
    def tckd(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, T: float) -> torch.Tensor:
        rows = torch.arange(len(y))

        def margin(z: torch.Tensor) -> torch.Tensor:
            z = z / T
            others = z.clone()
            others[rows, y] = -torch.inf
            return z[rows, y] - others.logsumexp(1)

        u, v = margin(s), margin(t.detach())
        p = v.sigmoid()
        return (
            T**2
            * (
                p * (F.logsigmoid(v) - F.logsigmoid(u)) + (1 - p) * (F.logsigmoid(-v) - F.logsigmoid(-u))
            ).mean()
        )

    def cka(x: torch.Tensor, y: torch.Tensor) -> float:
        x, y = x.double().numpy(), y.double().numpy()  # numbers may be made in numpy
        k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
        return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))

    def dist(s: torch.Tensor, t: torch.Tensor, beta: float, gamma: float, T: float) -> torch.Tensor:
        def rho(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)).mean()

        p, q = (s / T).softmax(1), (t.detach() / T).softmax(1)
        return T**2 * (beta * (1 - rho(p, q)) + gamma * (1 - rho(p.T, q.T)))

    def rkd_distance(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        def distances(x: torch.Tensor) -> torch.Tensor:  # the form of the public code
            square = x.pow(2).sum(1)
            d = (square[:, None] + square[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt().clone()
            d[range(len(x)), range(len(x))] = 0
            return d / d[d > 0].mean()

        return F.smooth_l1_loss(distances(s), distances(t.detach()))

    assert check("dist", dist), str(check("dist", dist))
    assert check("rkd_distance", rkd_distance), str(check("rkd_distance", rkd_distance))
    assert check("tckd", tckd), str(check("tckd", tckd))
    assert check("cka", cka), str(check("cka", cka))
    assert check("kd", kd_with()), str(check("kd", kd_with()))
    assert check("softmax_t", lambda z, tau: torch.softmax(z / tau, 1))


def dkd_of_the_public_code(
    s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, alpha: float, beta: float, T: float
) -> torch.Tensor:
    own = F.one_hot(y, s.shape[1]).bool()

    def pair(z: torch.Tensor) -> torch.Tensor:
        p = F.softmax(z / T, 1)
        return torch.stack([(p * own).sum(1), (p * ~own).sum(1)], 1)

    def others(z: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(z / T - 1000.0 * own, 1)

    t = t.detach()
    tckd = F.kl_div(pair(s).log(), pair(t), reduction="batchmean")
    return T**2 * (
        alpha * tckd + beta * F.kl_div(others(s), others(t), reduction="batchmean", log_target=True)
    )


def test_public_code_that_overflows_is_told_so() -> None:
    verdict = check("dkd", dkd_of_the_public_code)
    assert verdict.property == "stability" and "logsumexp" in verdict.message
    assert verdict.example.startswith("logits of 10000") and verdict.got == "nan"


def test_a_list_in_place_of_a_tensor_is_told_how_to_become_one() -> None:
    verdict = check("entropy_weight", lambda ts, T: [t.detach().sum(1) for t in ts])
    assert verdict.property == "result" and "torch.stack" in verdict.message


def test_the_librarys_own_function_passes_and_is_told_apart() -> None:
    verdict = check("kd", losses.kd)
    assert verdict.passed and "kdlab's own" in verdict.message


# ---- whatever a learner gives -----------------------------------------------------------------------


def test_an_exception_is_told_with_the_learners_line() -> None:
    def broken(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
        scaled = s / T
        return scaled @ t

    verdict = check("kd", broken)
    line = broken.__code__.co_firstlineno + 2
    assert verdict.property == "arguments"
    assert f"stops in line {line} (`return scaled @ t`) with RuntimeError: " in verdict.message
    assert "shapes cannot be multiplied (2x3 and 2x3)" in verdict.message
    assert "Traceback" not in str(verdict) and "kdlab/exercises" not in str(verdict)


def test_an_exception_on_an_edge_names_the_edge() -> None:
    def views(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
        return losses.kd(s.view(-1).view(s.shape), t.detach(), T)

    verdict = check("kd", views)
    assert "works for ordinary inputs, and does not come to its end" in verdict.message
    assert "not contiguous" in verdict.message and "view" in verdict.message


def test_an_error_inside_kdlab_is_told_with_the_learners_line() -> None:
    verdict = check("kd", lambda s, t, T: losses.kd(s, t.detach(), -T))
    assert "losses.kd(s, t.detach(), -T)" in verdict.message and "positive number" in verdict.message


def test_a_backward_pass_that_fails_is_told() -> None:
    def clobbered(s: torch.Tensor, t: torch.Tensor, T: float) -> torch.Tensor:
        p = torch.exp(torch.log_softmax(s / T, 1))
        value = (p * p).sum(1).mean()
        p.detach().mul_(0)
        p.data.zero_()
        p += 1
        return value

    verdict = check("kd", clobbered)
    assert verdict.property == "gradient" and "backward pass fails" in verdict.message


def leaves(s: object, t: object, T: object) -> None:
    sys.exit(1)


def recursive(s: object, t: object, T: object) -> object:
    return recursive(s, t, T)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (leaves, "SystemExit"),
        (recursive, "RecursionError"),
        (lambda s, t: 0, "takes (s, t), and is called with 3 arguments"),
        (lambda s, t, T: print(end=""), "`return` missing"),
        (lambda s, t, T: "0.3", "returns a str"),
        (lambda s, t, T: (s.sum(), t.sum()), "returns a tuple"),
        (lambda s, t, T: undefined_name, "NameError"),  # noqa: F821
        (lambda s, t, T: s.sum() * torch.nan, "not finite"),
        (3.2, "without brackets"),
        (torch.tensor(0.5), "without brackets"),
        ("kd", "without brackets"),
    ],
)
def test_no_answer_raises(answer: object, says: str) -> None:
    verdict = check("kd", answer)
    assert not verdict.passed and verdict.state == "failed"
    assert says in verdict.message


def not_written(s: object, t: object, T: object) -> object:
    """Write this."""
    raise NotImplementedError


def dots(s: object, t: object, T: object) -> object:
    """Write this."""
    ...


@pytest.mark.parametrize("answer", [None, ..., not_written, dots])
def test_what_is_not_answered_yet_is_open(answer: object) -> None:
    verdict = check("kd", answer)
    assert verdict.state == "open" and not verdict.passed
    assert check_value("kd_one_picture", None).state == "open"


def test_an_unknown_exercise_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dkd'"):
        check("dkdd", None)
    with pytest.raises(UnknownNameError):
        exercises.hint("nothing like it")


def test_checking_leaves_random_numbers_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check("kd", lambda s, t, T: losses.kd(s + 0 * torch.rand_like(s), t.detach(), T))
    assert torch.equal(torch.rand(2), expected)


def test_checking_works_under_no_grad() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert check("kd", kd_with()).passed


# ---- verdicts ---------------------------------------------------------------------------------------


def test_a_verdict_reads_as_text_html_and_markdown() -> None:
    verdict = check("kd", kd_with(lambda tau: 1.0))
    text = str(verdict)
    assert text == repr(verdict)
    assert text.startswith("✗ not yet · kd · temperature: The factor tau^2 is missing.")
    for word in ("Expected", "Got", "Shown on", "Right so far", 'hint("kd")'):
        assert word in text and word in verdict._repr_markdown_()
    html = verdict._repr_html_()
    assert "not yet" in html and "The factor tau^2 is missing." in html
    passed = check("kd", kd_with())
    assert str(passed).startswith("✓ right · kd") and "hint" not in str(passed)


def test_text_takes_its_colour_from_the_page() -> None:
    for verdict in (check("kd", kd_with()), check("kd", 3), check("kd", None)):
        html = verdict._repr_html_()
        assert "background:transparent" in html
        assert set(re.findall(r"(?<![-\w])color:\s*([^;\"]+)", html)) == {"inherit"}


def test_code_in_a_sentence_is_shown_as_code() -> None:
    html = check("kd", teacher_learns)._repr_html_()
    assert re.search(r"<code[^>]*>teacher_logits\.detach\(\)</code>", html) and "`" not in html


def test_a_verdict_escapes_what_a_learner_wrote() -> None:
    def broken(s: object, t: object, T: object) -> None:
        raise ValueError("<script>alert(1)</script>")

    html = check("kd", broken)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


# ---- hints and solutions ----------------------------------------------------------------------------


def test_hints_help_more_each_time() -> None:
    for level in (1, 2, 3, 3):
        assert f"Hint {level} of 3" in exercises.hint("kd")
    assert "solution" in exercises.hint("kd", 3) and "solution" not in exercises.hint("kd", 2)
    assert "Hint 2 of 3" in exercises.hint("nkd", 2)
    assert "Hint 3 of 3" in exercises.hint("nkd")
    with pytest.raises(ConfigError, match="hints 1 to 3"):
        exercises.hint("kd", 4)
    assert repr(exercises.hint("kd", 1)) == str(exercises.hint("kd", 1))


@pytest.mark.parametrize("name", sorted({*EXERCISES, *QUESTIONS}))
def test_hints_do_not_give_the_solution_away(name: str) -> None:
    exercise = EXERCISES.get(name) or QUESTIONS[name]
    assert len(set(exercise.hints)) == 3
    lines = [line.strip() for line in exercise.source.splitlines() if len(line.strip()) > 12]
    lines = [line for line in lines if not line.startswith(("def ", "from ", "x = x"))]
    for hint in exercise.hints[:2]:
        given = [line for line in lines if line.removeprefix("return ") in hint]
        assert len(given) < max(1, len(lines)), hint
        assert not any(line.startswith("return") for line in given), hint
    assert not all(line in exercise.hints[2] for line in lines)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_solution_runs_as_it_is_shown(name: str) -> None:
    shown = exercises.solution(name)
    names: dict[str, object] = {}
    exec(str(shown), names)
    assert check(name, names[name]).passed
    assert shown._repr_markdown_().startswith("```python\nimport torch")
    task = exercises.task(name)
    assert f"def my_{name}({', '.join(EXERCISES[name].signature.parameters)})" in task
    assert task._repr_markdown_().count("```") == 2


# ---- numbers and choices ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_questions_know_their_answer_and_their_mistakes(name: str) -> None:
    question = QUESTIONS[name]
    names: dict[str, object] = {}
    exec(str(exercises.solution(name)), names)
    assert check_value(name, names["answer"]).passed
    assert check(name, names["answer"]).passed
    for expression, says in question.mistakes:
        value = expression if question.options else answer_of(question, expression)
        verdict = check_value(name, value)
        assert not verdict.passed and verdict.message == says


def test_a_question_does_not_tell_its_answer() -> None:
    assert answer_of(QUESTIONS["kd_one_picture"]) == pytest.approx(0.594780, abs=1e-5)  # the worked set E1
    verdict = check_value("kd_one_picture", 7.0)
    assert "0.594" not in str(verdict) and "too large" in verdict.message


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (80, "a percentage"),
        (0.008, "a percentage is asked for"),
        (-0.8, "wrong sign"),
        (0.8 / math.log(2), "in bits"),
        (1.25, "reciprocal"),
        (0.2, "1 minus"),
        (0.64, "square of"),
        (0.83, "Nearly"),
        (0.5, "too small"),
        (math.nan, "not finite"),
        ("eighty", "One number"),
        (True, "One number"),
        ([0.8, 0.9], "One number"),
    ],
)
def test_wrong_units_are_named(value: object, says: str) -> None:
    verdict = check_value("accuracy", value, expected=0.8)
    assert not verdict.passed and says in verdict.message


@pytest.mark.parametrize("value", [0.8, 0.804, np.float32(0.8), torch.tensor(0.8), torch.tensor([0.8])])
def test_right_numbers_of_any_kind_pass(value: object) -> None:
    assert check_value("accuracy", value, expected=0.8).passed


def test_a_question_of_a_notebook_offers_no_hint() -> None:
    assert "hint" not in str(check_value("a number of my run", None, expected=0.8))
    assert 'hint("kd_one_picture")' in str(check_value("kd_one_picture", None))


def test_tolerance_and_unit() -> None:
    assert not check_value("loss", 2.2, expected=2.0).passed
    assert check_value("loss", 2.2, expected=2.0, tolerance=0.2).passed
    assert "2 nats" in str(check_value("loss", 9.0, expected=2.0, unit="nats"))
    assert check_value("zero", 0.0, expected=0).passed


def test_choices() -> None:
    assert check_value("winner", " kd ", expected="KD").passed
    assert not check_value("winner", "AT", expected="KD").passed
    assert "Choose one of" in check_value("nckd_gradient", "the second").message
    with pytest.raises(UnknownNameError):
        check_value("winner", "KD")
    with pytest.raises(ConfigError, match="answer of its own"):
        check_value("nckd_gradient", "none", expected="none")


# ---- predictions ------------------------------------------------------------------------------------

QUESTION = ("01-clusters", "Which student will have the tighter clusters?", ["alone", "KD"])


def test_a_prediction_is_kept_and_revisited(own_folder: Path) -> None:
    assert predict(*QUESTION).answer == ""
    assert not list(own_folder.iterdir())  # a question alone leaves no file
    given = predict("01-clusters", "kd", reason="soft labels pull classes together")
    assert (given.answer, given.question, given.note) == ("KD", QUESTION[1], "")
    outcome = revisit("01-clusters", "alone", lesson="Labels alone collapse classes more.")
    assert outcome.came_true is False and not outcome
    for word in ("You predicted: KD", "soft labels pull", "came out as: alone", "collapse classes more"):
        assert word in str(outcome) and word in outcome._repr_html_() and word in outcome._repr_markdown_()
    assert revisit("01-clusters", ["alone", "KD"]).came_true is True
    undecided = revisit("01-clusters", None)
    assert undecided.came_true is None and "does not decide" in undecided.message


def test_running_a_notebook_again_keeps_the_answer() -> None:
    predict(*QUESTION)
    predict("01-clusters", "KD", reason="why")
    assert (predict(*QUESTION).answer, predict(*QUESTION).reason) == ("KD", "why")
    assert predict("01-clusters", "alone").answer == "alone"  # a learner may think again
    answers._MEMORY.clear()
    assert predict(*QUESTION).answer == "alone"


def test_revisiting_without_a_prediction_says_so() -> None:
    predict(*QUESTION)
    for key in ("01-clusters", "never asked"):
        outcome = revisit(key, "KD")
        assert outcome.came_true is None
        assert outcome.message == "You made no prediction here. It came out as: KD."


def test_an_answer_that_is_no_option_is_not_kept(own_folder: Path) -> None:
    predict(*QUESTION)
    given = predict("01-clusters", "DKD")
    assert given.answer == "" and "none of the options" in given.note
    assert predict("01-clusters", "  ").answer == ""
    assert not list(own_folder.iterdir())


def test_predictions_survive_a_reload_and_a_fresh_process(own_folder: Path) -> None:
    predict(*QUESTION)
    predict("01-clusters", "KD", reason="größer")
    try:
        importlib.reload(answers)
        assert predictions.answers.load("01-clusters")["answer"] == "KD"
    finally:
        importlib.reload(answers)
    code = "from kdlab.exercises import revisit; print(revisit('01-clusters', 'KD').message)"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=own_folder, env=env, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert 'You predicted: KD. Your reason: "größer".' in result.stdout


def test_two_notebooks_of_a_folder_share_the_file(own_folder: Path) -> None:
    predict("a", "1")
    answers._MEMORY.clear()  # another notebook
    predict("b", "2")
    content = json.loads((own_folder / answers.FILE).read_text(encoding="utf-8"))
    assert set(content["answers"]) == {"a", "b"}
    assert [path.name for path in own_folder.iterdir()] == [answers.FILE]


def test_nothing_is_written_where_it_may_not_be(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "file").write_text("")
    monkeypatch.setenv("KDLAB_ANSWERS", str(own_folder / "file" / "answers.json"))
    given = predict("key", "KD")
    assert given.answer == "KD" and "cannot be written here" in given.note and "Note:" in str(given)
    assert revisit("key", "KD").came_true
    monkeypatch.setenv("KDLAB_ANSWERS", "off")
    assert "KDLAB_ANSWERS is off" in predict("key", "AT").note
    assert [path.name for path in own_folder.iterdir()] == ["file"]
    monkeypatch.setenv("KDLAB_ANSWERS", str(own_folder / "mine.json"))
    assert predict("key", "SP").note == "" and (own_folder / "mine.json").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_left_alone(own_folder: Path) -> None:
    own_folder.chmod(0o500)
    try:
        assert "cannot be written" in predict("key", "KD").note
    finally:
        own_folder.chmod(0o700)


@pytest.mark.parametrize("content", ["{broken", "[1, 2]", '{"format": 9, "answers": {}}', "\xff"])
def test_a_file_of_something_else_is_left_as_it_is(own_folder: Path, content: str) -> None:
    path = own_folder / answers.FILE
    path.write_text(content, encoding="latin-1")
    given = predict("key", "KD")
    assert given.answer == "KD" and "left as it is" in given.note
    assert path.read_text(encoding="latin-1") == content
    assert revisit("key", "KD").came_true


def test_the_panel_keeps_what_is_chosen() -> None:
    widgets = pytest.importorskip("ipywidgets")
    panel = predict(*QUESTION).panel()
    _, choice, reason, last = panel.children
    keep, told = last.children
    assert isinstance(choice, widgets.RadioButtons) and choice.value is None
    keep.click()
    assert "Choose one" in told.value
    choice.value, reason.value = "KD", "a <b>guess</b>"
    keep.click()
    assert "Kept: KD" in told.value
    assert revisit("01-clusters", "KD").message.startswith(
        'You predicted: KD. Your reason: "a <b>guess</b>".'
    )
    assert "<b>" not in revisit("01-clusters", "KD")._repr_html_()
    assert predict(*QUESTION).panel().children[1].value == "KD"


def test_a_notebook_shows_the_panel_and_keeps_text_for_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    shown: list[dict[str, object]] = []
    monkeypatch.setattr(predictions, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    predict(*QUESTION)._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert QUESTION[1] in str(shown[0]["text/html"]) and QUESTION[1] in str(shown[0]["text/plain"])


def test_outside_a_notebook_a_question_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    predict(*QUESTION)._ipython_display_()
    shown = capsys.readouterr().out
    assert QUESTION[1] in shown and "alone, KD" in shown and 'predict("01-clusters"' in shown
