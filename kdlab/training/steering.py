"""Steering a study: play, pause, step, stop, and changes to its terms, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from kdlab.errors import ConfigError, DataError, StudyError
from kdlab.methods import Term, make
from kdlab.training.files import append_json_line
from kdlab.training.progress import show_progress
from kdlab.training.state import StudyState


class Steering(StudyState):
    """The half of a `Study` that gives commands. Each is applied between two steps and recorded."""

    @property
    def state(self) -> str:
        """ "new", "preparing", "training", "paused", "stopped", "finished" or "failed"."""
        if self.control.finished.is_set():
            return self._state
        if self.control.paused:
            return "paused"
        return "preparing" if self._run is None else "training"

    def fit(self, progress: bool = True) -> Self:
        """Train to the end, showing a bar; Ctrl-C stops and leaves a study that can be gone on with.

        Raises:
            KDLabError: what made the training fail; all other errors are raised as they are.
        """
        with show_progress(self.board, progress):
            self.start()
            try:
                while not self.control.finished.wait(0.2):
                    pass
            except KeyboardInterrupt:
                self.control.stop()
                self.control.finished.wait()
        if self.error is not None:
            raise self.error
        if self._state == "stopped" and progress:
            print(f"Stopped; kdlab.load_study({str(self.folder)!r}).fit() goes on from here.")
        return self

    def start(self, paused: bool = False) -> Self:
        """Begin or go on training in a worker thread and return at once.

        Args:
            paused: hold before the first step, so that `step` can be used.
        """
        with self._lock:
            if not self.control.finished.is_set():
                if not paused:
                    self.play()
                return self
            if self._state == "finished":
                return self
            self._require_whole()
            self.error = None
            self.control.open()
            self.control.pause() if paused else self.control.play()
            self.board.post(done=False, error=None, state=self.state)
            threading.Thread(target=self._work, daemon=True, name="kdlab-train").start()
        return self

    def play(self) -> None:
        """Begin, or go on after a pause or a stop."""
        if self.control.finished.is_set():
            self.start()
        else:
            self.control.play()
            self.board.post(state=self.state)

    def pause(self) -> None:
        """Hold before the next step; nothing happens where nothing is running."""
        if not self.control.finished.is_set():
            self.control.pause()
            self.board.post(state=self.state)

    def step(self, n: int = 1) -> None:
        """Do `n` steps and hold."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"step takes a whole number of at least 1, not {n!r}.")
        with self._lock:
            if self.control.finished.is_set():
                self.start(paused=True)
            self.control.step(n)
            self.board.post(state=self.state)

    def stop(self) -> None:
        """Stop before the next step, with a checkpoint; `play` or `fit` goes on from there."""
        self.control.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no training is at work; False if `timeout` seconds passed before."""
        return self.control.finished.wait(timeout)

    def call(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `function(*args)` between two steps, on the thread that owns the models."""
        return self.control.call(function, *args)

    def terms(self, student: str) -> dict[str, Term]:
        """The terms of a student as they are now: weights, schedules and switches."""
        self._require_student(student)
        run = self._run
        if run is not None:
            for one in run.students:
                if one.name == student:
                    return dict(one.method.terms)
        fresh = self._methods[student].fresh()
        position = self._position()
        for command in self.record.marks():
            if command["student"] == student and (command["seed_number"], command["step"]) <= position:
                fresh.term(command["term"]).set(**command["change"])
        return dict(fresh.terms)

    def set(
        self,
        student: str,
        term: str,
        *,
        weight: float | None = None,
        enabled: bool | None = None,
        schedule: str | None = None,
        at_step: int | None = None,
        from_seed: int | None = None,
    ) -> Future[Any]:
        """Change a term of a student before the next step (or before step `at_step`), and record it.

        Seeds that are trained later repeat the change at the same step, so that they stay comparable.

        Args:
            student, term: which.
            weight, enabled, schedule: what to change ("constant", "warmup:20", ...).
            at_step: a step to come, counted from 0; None means now.
            from_seed: the first seed it holds for; None means the present one.

        Returns:
            A future that is done when the change holds.

        Raises:
            UnknownNameError: no such student or term.
            ConfigError: a value that cannot be; nothing is changed then.
            StudyError: the study is finished, or `at_step` is past.
        """
        self._require_student(student)
        change: dict[str, Any] = {
            k: v
            for k, v in (("weight", weight), ("enabled", enabled), ("schedule", schedule))
            if v is not None
        }
        trial = make(self._methods[student].config())
        trial.term(term).set(**change)
        if not change:
            raise ConfigError("set needs at least one of weight, enabled and schedule.")
        if self._state == "finished" and self.control.finished.is_set():
            raise StudyError("The study is finished; start another one to change a term.")
        if from_seed is not None and from_seed not in self.seeds:
            raise ConfigError(f"from_seed must be one of the study's seeds {self.seeds}, not {from_seed!r}.")
        if "schedule" in change:
            change["schedule"] = str(trial.terms[term].schedule)
        return self.control.call(self._command, student, term, change, at_step, from_seed)

    def _command(
        self, student: str, term: str, change: dict[str, Any], at_step: int | None, from_seed: int | None
    ) -> None:
        run = self._run if self._run is not None and self._run.plan.phase == "students" else None
        number, step = self._position()
        first = self.seeds[number - 1] if from_seed is None else from_seed
        if at_step is not None:
            if self.seeds.index(first) + 1 < number or (
                self.seeds.index(first) + 1 == number and at_step < step
            ):
                raise StudyError(
                    f"Step {at_step} is past (the study is at step {step}); nothing was changed."
                )
            step = at_step
        elif first != self.seeds[number - 1]:
            step = 0
        epoch = step // max(self.steps_per_epoch, 1) + 1
        text = ", ".join(_say(k, v) for k, v in change.items())
        command = {
            "seed": first,
            "seed_number": self.seeds.index(first) + 1,
            "step": step,
            "epoch": epoch,
            "student": student,
            "term": term,
            "change": change,
            "text": f"{term} {text}",
        }
        self._write_asked()
        append_json_line(self.folder / "commands.jsonl", command)
        self.record.commands.append(command)
        if run is not None and first == run.plan.seed:
            if at_step is None:
                run.apply(command)
            else:
                run.pending = sorted([*run.pending, command], key=lambda c: c["step"])
        self.board.post(mark=command)

    def _require_whole(self) -> None:
        if self._views_only:
            raise DataError(
                f"The data set {self.asked['data']!r} of this study is not at hand, so it can be "
                "looked at but not trained on; give kdlab.load_study(folder, data=...) the data, "
                "or data_root=... where it lies."
            )

    def _work(self) -> None:
        raise NotImplementedError

    def _write_asked(self) -> None:
        raise NotImplementedError


def _say(key: str, value: Any) -> str:
    if key == "enabled":
        return "on" if value else "off"
    return f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}"
