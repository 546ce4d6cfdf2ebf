"""Predictions: what a learner expects before an experiment, and how it came out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from kdlab.exercises import answers
from kdlab.exercises.verdict import box


@dataclass(frozen=True, repr=False)
class Prediction:
    """A question put before an experiment, and the answer to it, if there is one yet.

    In a notebook it is a panel: choose an option, give a reason if you like, and press "Keep it".

    Attributes:
        key: what it is kept under.
        question: what is asked; "" where only the answer was given.
        options: what can be chosen.
        answer: the choice; "" as long as there is none.
        reason: why, in the learner's words.
        note: what was not done and why, "" otherwise.

    >>> question = kdlab.exercises.predict("tighter", "Whose clusters will be tighter?", ["alone", "KD"])
    >>> question.options, question.answer
    (('alone', 'KD'), '')
    >>> kdlab.exercises.predict("tighter", "KD").answer
    'KD'
    """

    key: str
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    reason: str = ""
    note: str = ""

    def _paragraphs(self) -> list[str]:
        lines = [self.question, f"Your prediction: {self.answer}" if self.answer else ""]
        lines.append(f"Because: {self.reason}" if self.answer and self.reason else "")
        if not self.answer:
            lines.append("Options: " + ", ".join(self.options) if self.options else "")
            lines.append(f'Answer with kdlab.exercises.predict("{self.key}", "...").')
        return [line for line in [*lines, f"Note: {self.note}." if self.note else ""] if line]

    def __str__(self) -> str:
        return "\n".join([f"Prediction {self.key}", *("  " + line for line in self._paragraphs())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = f"<strong>Prediction · {escape(self.key)}</strong>"
        return box("open", head, *map(escape, self._paragraphs()))

    def _repr_markdown_(self) -> str:
        return "\n\n".join([f"**Prediction · {self.key}**", *self._paragraphs()])

    def panel(self) -> Any:
        """The question as widgets of ipywidgets: options, a line for the reason, a button.

        Raises:
            ImportError: ipywidgets is not there.
        """
        import ipywidgets as widgets

        wide = widgets.Layout(width="auto", max_width="640px")
        choice = widgets.RadioButtons(
            options=list(self.options),
            value=self.answer if self.answer in self.options else None,
            layout=wide,
        )
        reason = widgets.Text(value=self.reason, placeholder="Because ... (as you like)", layout=wide)
        keep = widgets.Button(description="Keep it", tooltip="Keep this prediction", button_style="primary")
        told = widgets.HTML()
        told.value = _told(self)

        def kept(_: Any) -> None:
            if choice.value is None:
                told.value = "Choose one first."
                return
            told.value = _told(_record(self.key, self.question, self.options, choice.value, reason.value))

        keep.on_click(kept)
        heading = widgets.HTML(f"<strong>Prediction.</strong> {escape(self.question)}")
        return widgets.VBox([heading, choice, reason, widgets.HBox([keep, told])])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        shown = {"text/plain": str(self), "text/html": self._repr_html_()}
        if self.options and _in_notebook():
            # A page without a kernel, such as a printed notebook, shows the text instead.
            with contextlib.suppress(ImportError):
                shown = {**self.panel()._repr_mimebundle_(), **shown}
        display(shown, raw=True)


@dataclass(frozen=True, repr=False)
class Outlook:
    """A prediction beside what happened.

    Attributes:
        key: what the prediction was kept under.
        answer: what was predicted, "" if nothing was.
        truth: what happened; () where the run does not decide.
        came_true: whether both agree; None without a prediction or without a decision.
        message: the same in words.

    >>> asked = kdlab.exercises.predict("clusters", "alone")
    >>> outlook = kdlab.exercises.revisit("clusters", "KD")
    >>> outlook.answer, outlook.truth, outlook.came_true
    ('alone', ('KD',), False)
    """

    key: str
    answer: str
    truth: tuple[str, ...]
    came_true: bool | None
    message: str

    def __bool__(self) -> bool:
        return bool(self.came_true)

    def __str__(self) -> str:
        return f"Prediction {self.key}\n  " + self.message.replace("\n", "\n  ")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        state = "passed" if self.came_true else "open"  # a surprise is no failure
        head = f"<strong>Your prediction · {escape(self.key)}</strong>"
        return box(state, head, *map(escape, self.message.splitlines()))

    def _repr_markdown_(self) -> str:
        return f"**Your prediction · {self.key}**\n\n" + self.message.replace("\n", "\n\n")


def predict(key: str, text: str, options: Sequence[str] | None = None, reason: str = "") -> Prediction:
    """Put a question before an experiment, or answer it.

    With `options` the text is a question: a notebook shows a panel, elsewhere it is printed. Without, the
    text is your answer. Both are safe to run again: a question does not forget its answer, and an answer
    may be changed. Kept in memory, and in `.kdlab-answers.json` in the working folder (or where the
    environment variable KDLAB_ANSWERS points to; "off" for no file). Where no file can be written the
    prediction says so.

    Args:
        key: a name of your own for the question ("01-clusters").
        text: the question, or the answer.
        options: what can be chosen.
        reason: why you expect it; shown again by `revisit`.

    Returns:
        the prediction. An answer that is none of the question's options is not kept; its `note` says so.

    >>> from kdlab import exercises
    >>> question = exercises.predict("demo", "Which clusters will be tighter?", ["alone", "KD"])
    >>> exercises.predict("demo", "kd", reason="soft labels pull").answer
    'KD'
    >>> exercises.revisit("demo", "KD").came_true
    True
    """
    before = answers.load(key) or {}
    if options is None:
        return _record(key, str(before.get("question", "")), tuple(before.get("options", ())), text, reason)
    offered = tuple(map(str, options))
    answer = str(before.get("answer", ""))
    kept = answer if answer in offered else ""
    reason = str(before.get("reason", "")) if kept else ""
    entry = {"question": text, "options": list(offered), "answer": kept, "reason": reason}
    if entry != before:
        # A question alone is not worth a file, and must not wipe an answer to an earlier wording there.
        note = answers.keep(key, entry) if kept else answers.remember(key, entry)
    else:
        note = ""
    return Prediction(key, text, offered, kept, reason, note)


def revisit(key: str, truth: str | Sequence[str] | None, lesson: str = "") -> Outlook:
    """Compare a prediction with what happened; says so where no prediction was made.

    Args:
        key: the name of the question.
        truth: what happened; several where more than one is right (within the spread of seeds, say); None
            where the run does not decide.
        lesson: a sentence on why, shown behind.

    >>> from kdlab import exercises
    >>> print(exercises.revisit("never asked", "KD").message)
    You made no prediction here. It came out as: KD.
    """
    entry = answers.load(key) or {}
    answer, reason = str(entry.get("answer", "")), str(entry.get("reason", ""))
    found = () if truth is None else (truth,) if isinstance(truth, str) else tuple(map(str, truth))
    came_out = f"It came out as: {' or '.join(found)}." if found else "This run does not decide it."
    came_true: bool | None = None
    if not answer:
        lines = [f"You made no prediction here. {came_out}"]
    else:
        lines = [f"You predicted: {answer}." + (f' Your reason: "{reason}".' if reason else "")]
        if not found:
            lines.append(came_out)
        elif _plain(answer) in map(_plain, found):
            came_true = True
            lines.append(f"{came_out} As you expected. Does your reason explain it too?")
        else:
            came_true = False
            lines.append(
                f"{came_out} Another result than you expected: this is where there is something to learn."
            )
    if lesson:
        lines.append(lesson)
    return Outlook(key, answer, found, came_true, "\n".join(lines))


def _record(key: str, question: str, options: tuple[str, ...], answer: str, reason: str) -> Prediction:
    chosen = str(answer).strip()
    if options:
        same = [option for option in options if _plain(option) == _plain(chosen)]
        if not same:
            note = f"{chosen!r} is none of the options, so it is not kept"
            return Prediction(key, question, options, "", "", note)
        chosen = same[0]
    if not chosen:
        return Prediction(key, question, options, note="an empty answer is not kept")
    entry = {"question": question, "options": list(options), "answer": chosen, "reason": reason.strip()}
    return Prediction(key, question, options, chosen, reason.strip(), answers.keep(key, entry))


def _told(prediction: Prediction) -> str:
    if not prediction.answer:
        return ""
    return f"Kept: {escape(prediction.answer)}" + (f" ({escape(prediction.note)})" if prediction.note else "")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _in_notebook() -> bool:
    """Whether a kernel runs this, and not a terminal."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
