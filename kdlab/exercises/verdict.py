"""What the exercises answer with: verdicts and texts that read well in a notebook and in a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

_BOX = (
    "margin:4px 0;padding:6px 12px;max-width:80ch;line-height:1.5;color:inherit;background:transparent;"
    "border:1px solid rgba(128,128,128,.45);border-left:5px {line} {colour}"
)
_LOOKS = {  # the state is also said in words and by the kind of line: colour alone tells nothing to some
    "passed": ("✓ right", "solid", "#1a8f5a"),
    "failed": ("✗ not yet", "double", "#d1662c"),
    "open": ("○ open", "dashed", "#8a8f98"),
}
_SOFT = "color:inherit;opacity:.8"
_CODE = "color:inherit;background:transparent"


def box(state: str, *paragraphs: str) -> str:
    """An HTML box of `paragraphs` (HTML each) that takes its text colour from the page, light or dark."""
    _, line, colour = _LOOKS[state]
    inner = "".join(f'<div style="color:inherit">{text}</div>' for text in paragraphs if text)
    return f'<div class="kd-exercise" style="{_BOX.format(line=line, colour=colour)}">{inner}</div>'


def _marked(text: str) -> str:
    """Text as HTML, `this` as code."""
    return re.sub(r"`([^`]+)`", rf'<code style="{_CODE}">\1</code>', escape(text))


class Text(str):
    """Words for a learner: shown without quotes, in a notebook as Markdown; `code` is shown as Python.

    >>> kdlab.exercises.Text("Look at the temperature.")
    Look at the temperature.
    """

    code: str

    def __new__(cls, text: str, code: str = "") -> Text:
        made = super().__new__(cls, text)
        made.code = code
        return made

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        if not self.code:
            return str(self)
        return f"{self.replace(self.code, '')}\n```python\n{self.code.strip()}\n```\n".lstrip()


@dataclass(frozen=True, repr=False)
class Verdict:
    """What became of an answer; true where it is right.

    Attributes:
        passed: whether the answer is right.
        name: the exercise.
        message: one or two sentences: what is wrong and what to do about it.
        property: the first broken property ("temperature"), "" where none is.
        property_title: the same in words.
        expected: what was expected.
        got: what came.
        example: an input on which it shows, as text.
        inputs: the arguments of that input, so that `my_function(*verdict.inputs)` shows it again.
        held: what is right, in words.
        mistake: the known mistake that the answer behaves like, "" where none does.
        state: "passed", "failed", or "open" where nothing was answered yet.

    >>> verdict = kdlab.exercises.check("softmax_t", lambda logits, temperature: torch.softmax(logits, dim=1))
    >>> bool(verdict), verdict.state, verdict.property
    (False, 'failed', 'temperature')
    >>> logits, temperature = verdict.inputs  # on which it shows
    """

    passed: bool
    name: str
    message: str
    property: str = ""
    property_title: str = ""
    expected: str = ""
    got: str = ""
    example: str = ""
    inputs: tuple[Any, ...] = field(default=(), compare=False)
    held: tuple[str, ...] = ()
    mistake: str = ""
    state: Literal["passed", "failed", "open"] = "failed"

    def __bool__(self) -> bool:
        return self.passed

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("Expected", self.expected), ("Got", self.got), ("Shown on", self.example)]
        return [(name, text) for name, text in facts if text]

    def _kept(self) -> str:
        if not self.held:
            return ""
        return ("Checked: " if self.passed else "Right so far: ") + "; ".join(self.held) + "."

    def _help(self) -> str:
        from kdlab.exercises.catalogue import EXERCISES, QUESTIONS  # a question of a notebook has no hints

        known = self.name in EXERCISES or self.name in QUESTIONS
        return f'For help: kdlab.exercises.hint("{self.name}")' if known and not self.passed else ""

    def __str__(self) -> str:
        head = f"{_LOOKS[self.state][0]} · {self.name}"
        title = f" · {self.property_title}" if self.property_title else ""
        lines = [f"{head}{title}: {self.message}", *(f"  {name}: {text}" for name, text in self._facts())]
        lines += [f"  {text}" for text in (self._kept(), self._help()) if text]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = f"<strong>{_LOOKS[self.state][0]} · {escape(self.name)}</strong>"
        if self.property_title:
            head += f" · {escape(self.property_title)}"
        facts = [
            f'<span style="{_SOFT}">{name}:</span> '
            f'<code style="{_CODE};white-space:pre-wrap">{escape(text)}</code>'
            for name, text in self._facts()
        ]
        rest = [f'<span style="{_SOFT}">{escape(t)}</span>' for t in (self._kept(), self._help()) if t]
        return box(self.state, head, _marked(self.message), *facts, *rest)

    def _repr_markdown_(self) -> str:
        title = f" · {self.property_title}" if self.property_title else ""
        lines = [f"**{_LOOKS[self.state][0]} · {self.name}**{title}", "", self.message, ""]
        lines += [f"- {name}: `{text}`" for name, text in self._facts()]
        return "\n".join([*lines, "", *(text for text in (self._kept(), self._help()) if text)])
