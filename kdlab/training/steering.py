"""Steering a study: play, pause, step, stop, and changes to its students, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from kdlab.errors import ConfigError, DataError, StudyError
from kdlab.methods import Term, make
from kdlab.training import config
from kdlab.training.commands import Cast, Command
from kdlab.training.files import append_json_line
from kdlab.training.progress import show_progress
from kdlab.training.runtime import release_helpers, start_thread
from kdlab.training.state import StudyState
from kdlab.training.variants import Student


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

    def fit(self, progress: bool = True, *, live: str | None = None, tensorboard: bool = False) -> Self:
        """Train to the end, showing a bar; Ctrl-C stops and leaves a study that can be gone on with.

        Args:
            progress: show a bar, and at the end the students that had to be stopped.
            live: "cell" shows the panel instead of the bar and keeps it up to date from within this
                cell, for notebooks that cannot change widgets from a thread (Colab); interrupt the cell
                to change something, and run it again. Elsewhere `panel()` needs no cell to wait.
            tensorboard: also write everything for TensorBoard, into `tensorboard/` of the folder.

        Raises:
            ConfigError: `live` is something else.
            KDLabError: what made the training fail; all other errors are raised as they are.
        """
        if live not in (None, "cell"):
            raise ConfigError(f"live must be 'cell' or None, not {live!r}.")
        if progress and self._state == "new":
            print(f"The study will take {self.footprint()} in {self.folder}.")
        watch = self._wait_for_end if live is None else self._shown_in_cell()
        with show_progress(self.board, progress and live is None):
            self.start(tensorboard=tensorboard)
            try:
                watch()
            except KeyboardInterrupt:
                self.control.stop()
                self.control.finished.wait()
        if self.error is not None:
            raise self.error
        if progress:
            for why in dict.fromkeys(entry["text"] for entry in self.failures()):
                print(why)
            if self._state == "stopped":
                print(f"Stopped; kdlab.load_study({str(self.folder)!r}).fit() goes on from here.")
        return self

    def _wait_for_end(self) -> None:
        while not self.control.finished.wait(0.2):
            pass

    def _shown_in_cell(self) -> Callable[[], None]:
        """Show a panel; gives what keeps it up to date until the training ends."""
        raise NotImplementedError

    def start(self, paused: bool = False, *, tensorboard: bool = False) -> Self:
        """Begin or go on training in a worker thread and return at once.

        Args:
            paused: hold before the first step, so that `step` can be used.
            tensorboard: see `fit`.
        """
        with self._lock:
            if not self.control.finished.is_set():
                if not paused:
                    self.play()
                return self
            if self._state == "finished":
                return self
            self._require_whole()
            self._listen(tensorboard)
            self.error = None
            self.control.open()
            self.control.pause() if paused else self.control.play()
            self.board.post(done=False, error=None, note=None, state=self.state)
            release_helpers()  # the training thread has its own
            start_thread(self._work, "kdlab-train")
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
        live = None if run is None else run.roster.find(student)
        if live is not None and not live.silent:
            return dict(live.method.terms)
        number, step = self._position(student)
        return Cast(self.students, self.record.commands, number).terms(student, step)

    # ---- changes -------------------------------------------------------------------------------------

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
            StudyError: the study or the student is finished, or `at_step` is past.
        """
        self._require_student(student)
        given = (("weight", weight), ("enabled", enabled), ("schedule", schedule))
        change: dict[str, Any] = {k: v for k, v in given if v is not None}
        trial = make(self.students[student].method.config())
        trial.term(term).set(**change)
        if not change:
            raise ConfigError("set needs at least one of weight, enabled and schedule.")
        self._require_going("change a term")
        if "schedule" in change:
            asked = trial.terms[term].schedule
            asked.over(self.epochs, self.recipe.drops)  # refused now, not when it is due
            change["schedule"] = str(asked)
        text = f"{term} {', '.join(_say(k, v) for k, v in change.items())}"
        command: Command = {"kind": "set", "student": student, "term": term, "change": change, "text": text}
        return self.control.call(self._give, command, at_step, self._seed_number(from_seed))

    def add(self, name: str, method: Any) -> Future[Any]:
        """Add a student, also to a study that is under way or finished.

        It begins with the weights all began with, sees the batches they saw, and is trained alone
        until it has caught up; so it ends exactly as if it had been there from the start, in every seed.

        Args:
            name: of the new student.
            method: as in `Study(students=...)`.

        Returns:
            A future that is done when the student is there; `fit` or `play` trains it.

        Raises:
            ConfigError: the name is taken, or the method cannot work with these networks.
        """
        student = Student.of(method)
        self._require_new(name)
        self._check_student(student)
        own = student.own()
        command: Command = {"kind": "add", "student": name, "method": student.method.config()}
        command |= {"own": own, "text": "added"}
        if isinstance(own.get("network"), dict):
            self._networks[name] = student.network
        return self.control.call(self._give, command, None, None)

    def fork(
        self,
        student: str,
        at_epoch: int | None = None,
        *,
        name: str | None = None,
        method: Any = None,
        at_step: int | None = None,
    ) -> Future[Any]:
        """Let a new student go its own way from a student as it is now, or was after `at_epoch`.

        The fork takes over the network and its optimiser state; with `method=None` also the method
        with its trained parts, and differs only in what is set afterwards. A fork from the past does
        again what its parent did since the nearest checkpoint that was kept (`Study(keep=...)`), then
        catches up with the others. Every seed gets the fork at the same step.

        Args:
            student: the parent.
            at_epoch: after which epoch (1 ... epochs - 1); None means now.
            name: of the fork; None makes one.
            method: what it learns by from then on.
            at_step: instead of `at_epoch`: before which step, counted from 0.

        Returns:
            A future that is done when the fork is made or planned.

        Raises:
            UnknownNameError: no such student.
            ConfigError: a name that is taken, an epoch that is not, or a method that cannot work.
            StudyError: the parent has nothing to fork then.
        """
        self._require_student(student)
        if at_epoch is not None:
            whole = isinstance(at_epoch, int) and not isinstance(at_epoch, bool)
            if not whole or not 1 <= at_epoch < self.epochs:
                raise ConfigError(
                    f"at_epoch must be an epoch from 1 to {self.epochs - 1}, after which there is something "
                    f"left to train, not {at_epoch!r}; use add() for a student that begins at the start."
                )
            if at_step is not None:
                raise ConfigError("fork takes at_epoch or at_step, not both.")
            at_step = at_epoch * self.steps_per_epoch
        parent = self.students[student]
        other = None if method is None else make(method)
        if other is not None:
            self._check_student(Student(other, network=parent.network, **parent.recipe))
        if name is None:
            what = "again" if other is None else other.title
            name = config.free_name(f"{student}, then {what}", self.names)
        self._require_new(name)
        command: Command = {"kind": "fork", "student": name, "parent": student}
        command |= {"method": None if other is None else other.config(), "text": f"forked from {student}"}
        return self.control.call(self._give, command, at_step, None)

    def drop(self, student: str, *, at_step: int | None = None, from_seed: int | None = None) -> Future[Any]:
        """Train a student no further, in this seed and all others; what it has done is kept.

        Args:
            student: which.
            at_step, from_seed: see `set`.

        Raises:
            UnknownNameError: no such student.
            StudyError: nothing of it is left to train, or it is the last one in training.
        """
        self._require_student(student)
        self._require_going(f"drop {student!r}")
        others = [n for n in self.names if n != student and n not in self._dropped()]
        if not others:
            raise StudyError(f"{student!r} is the only student left; use stop() to end the training.")
        if student in self._dropped():
            raise StudyError(f"{student!r} has been dropped already.")
        command: Command = {"kind": "drop", "student": student, "text": "dropped"}
        return self.control.call(self._give, command, at_step, self._seed_number(from_seed))

    def _give(self, command: Command, at_step: int | None, from_number: int | None) -> None:
        """Date a command, write it down and hand it on; on the training thread."""
        if at_step is not None and (isinstance(at_step, bool) or not isinstance(at_step, int) or at_step < 0):
            raise ConfigError(f"at_step must be a whole number of at least 0, not {at_step!r}.")
        run = self._run if self._run is not None and self._run.plan.phase == "students" else None
        subject = command["parent"] if command["kind"] == "fork" else command["student"]
        number, now = (self._seed_at_work(), 0) if command["kind"] == "add" else self._position(subject)
        first = from_number or number
        step = now if first == number else 0
        if at_step is not None:
            past = first < number or (first == number and at_step < now)
            if past and command["kind"] != "fork":
                raise StudyError(f"Step {at_step} is past (the study is at step {now}); nothing was changed.")
            step = at_step
        self._check_when(command, step, now)
        epoch = step // max(self.steps_per_epoch, 1) + 1
        if command["kind"] == "add" and run is not None:
            epoch = run.epoch  # where the others are; it marks the curves
        dated = {"seed": self.seeds[first - 1], "seed_number": first, "step": step, "epoch": epoch} | command
        self._write_asked()
        append_json_line(self.folder / "commands.jsonl", dated)
        self.record.commands.append(dated)
        if run is not None:
            run.plan.students.update(self.students)
            run.receive(dated)
        if command["kind"] in ("add", "fork") and self._state == "finished":
            self._state = "stopped"
        self.board.post(mark=dated, state=self.state, roster=self.names)

    def _check_when(self, command: Command, step: int, now: int) -> None:
        """Refuse what cannot take effect at that step."""
        kind, student = command["kind"], command["student"]
        total = self.epochs * self.steps_per_epoch
        if kind != "add" and step >= total:
            raise StudyError(f"Step {step} is behind the end of the training ({total} steps).")
        if kind == "add":
            return
        ended = self.ended(command["parent"] if kind == "fork" else student)
        if kind == "fork":
            parent = command["parent"]
            if step == 0:
                raise StudyError(
                    f"{parent!r} has not been trained yet, so there is nothing to fork; "
                    "use add() for another student that begins at the start, or give at_epoch."
                )
            origin = Cast(self.students, self.record.commands, 1).fork(parent)
            if origin is not None and step <= origin["step"]:
                raise StudyError(
                    f"{parent!r} is itself a fork, made at step {origin['step']}; "
                    f"fork {origin['parent']!r} at step {step} instead."
                )
            if ended is not None and step > ended["step"]:
                raise StudyError(f"{parent!r} was trained to step {ended['step']} only ({ended['text']}).")
        elif ended is not None:
            raise StudyError(f"{student!r} is not in training any more: {ended['text']}.")

    # ---- refusals ------------------------------------------------------------------------------------

    def _seed_number(self, seed: int | None) -> int | None:
        if seed is None:
            return None
        if seed not in self.seeds:
            raise ConfigError(f"from_seed must be one of the study's seeds {self.seeds}, not {seed!r}.")
        return self.seeds.index(seed) + 1

    def _require_going(self, what: str) -> None:
        if self._state == "finished" and self.control.finished.is_set():
            raise StudyError(
                f"The study is finished; start another one to {what}, or add() or fork() a student."
            )

    def _require_new(self, name: str) -> None:
        config.check_name(name)
        if name in [*self.names, *(spec.name for spec in self._specs)]:
            raise ConfigError(f"There is a network named {name!r} already; choose another name.")

    def _require_whole(self) -> None:
        if self._views_only:
            raise DataError(
                f"The data set {self.asked['data']!r} of this study is not at hand, so it can be "
                "looked at but not trained on; give kdlab.load_study(folder, data=...) the data, "
                "or data_root=... where it lies."
            )

    def footprint(self) -> Any:
        raise NotImplementedError

    def _check_student(self, student: Student) -> None:
        raise NotImplementedError

    def _listen(self, tensorboard: bool) -> None:
        raise NotImplementedError

    def _work(self) -> None:
        raise NotImplementedError

    def _write_asked(self) -> None:
        raise NotImplementedError


def _say(key: str, value: Any) -> str:
    if key == "enabled":
        return "on" if value else "off"
    return f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}"
