"""The lockstep loop: one seed, all students on the same batches, one pass of each teacher.

Every student has a position of its own, and the loop always trains those who are farthest behind:
usually all of them together, or alone the one that was added or forked later until it has caught
up. A batch is a function of (seed, epoch, step), so each student sees what it would see alone.

It runs on whatever thread calls `Run.train`, asks a `Control` before each step, posts to a `Board`
and writes to a `RunRecord`; it knows neither widgets nor files of other runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from kdlab.data import Batches, ProbeSet
from kdlab.errors import StudyError
from kdlab.training import guards
from kdlab.training.ahead import Ahead
from kdlab.training.checkpoint import Checkpoints
from kdlab.training.commands import Command
from kdlab.training.control import Control
from kdlab.training.crew import Crew
from kdlab.training.events import Board
from kdlab.training.meter import Meter
from kdlab.training.options import numerics, processor_threads
from kdlab.training.plan import RunPlan
from kdlab.training.preparation import Stopped, Workshop
from kdlab.training.record import RunRecord
from kdlab.training.roster import MEMORY_FORMAT, Roster
from kdlab.training.runtime import give_back_memory, keep_freed_memory
from kdlab.training.seeds import derive, seeded
from kdlab.training.snapshots import Snapshot, measure, save_snapshots
from kdlab.training.student import StepInputs, StudentRun
from kdlab.training.teacher_pass import TeacherPass

_POST_EVERY = 0.1  # seconds between progress posts
_EPOCH_CHECKPOINT_EVERY = 2.0  # seconds; shorter epochs share a checkpoint


class Run:
    """One seed under training. `train` returns True at the end, False when it was stopped before.

    Attributes:
        roster: the students, and who of them trains next.
        position: the next step of those who train.
    """

    def __init__(self, plan: RunPlan, record: RunRecord, control: Control, board: Board) -> None:
        self.plan, self.record, self.control, self.board = plan, record, control, board
        keep_freed_memory()
        self.data = plan.data.to(plan.device)
        self.checkpoints = Checkpoints(plan.folder)
        self.batches = self._make_batches("batches")
        self.roster = Roster(plan, self.checkpoints, self.batches.steps_per_epoch)
        self.teachers = TeacherPass(plan.teachers, self.data, plan.options, plan.device, self.batches)
        self._workshop = Workshop(plan, self._make_batches("prepare"), control)
        self.teachers.watch = self._watch_teachers
        self.meter = Meter(plan, self.data, record)
        self._last_checkpoint = self._last_post = time.monotonic()
        self._rate_from = (time.monotonic(), 0)
        self._steps_done = 0  # by the group, since this object was made
        self.position = 0
        self._regroup = False
        self._crew: Crew | None = None  # while several things are computed beside each other on a processor
        self._granted = False  # a step that the control has allowed and that is not done yet

    def _make_batches(self, purpose: str) -> Batches:
        plan, recipe = self.plan, self.plan.recipe
        wanted = [s.method.second_view for s in plan.students.values() if s.method.second_view]
        return Batches(
            self.data.train,
            batch_size=recipe.batch_size,
            seed=derive(plan.seed, purpose),
            mean=self.data.mean,
            std=self.data.std,
            augment=recipe.augment or self.data.augment,
            drop_last=recipe.drop_last,
            device=plan.device,
            memory_format=MEMORY_FORMAT,
            views=plan.options.teacher_views if purpose == "batches" else None,
            second=wanted[0] if wanted and purpose == "batches" else "",
        )

    @property
    def students(self) -> Sequence[StudentRun]:
        """Everybody who is or was in training."""
        return self.roster.students

    @property
    def epoch(self) -> int:
        """The epoch at work, from 1."""
        return min(self.position // self.batches.steps_per_epoch + 1, self.plan.recipe.epochs)

    # ---- the loop -----------------------------------------------------------------------------------

    def train(self) -> bool:
        """Train to the last epoch, or until the control says stop.

        Raises:
            StudyError: no student is left that could be trained, or something failed.
        """
        options, device = self.plan.options, self.plan.device
        pixels = self.data.input_shape[1] * self.data.input_shape[2]
        with numerics(options, device), processor_threads(options, pixels, device) as threads:
            self._crew = None if threads is None or options.compile else Crew.of(threads)
            try:
                finished = self._train()
            finally:
                if self._crew is not None:
                    self._crew.close()
                give_back_memory()
                for listener in self.record.listeners:
                    listener.close()
        if finished:
            guards.require_survivors(self.students)
        return finished

    def _train(self) -> bool:
        self._update_roster()
        while group := self.roster.lagging():
            try:
                going_on = self._train_group(group)
            except Stopped:
                going_on = False
            except Exception as error:
                if not guards.out_of_memory(error):
                    raise
                self._use_less_memory(error)
                continue
            if not going_on:
                self.checkpoint()
                return False
        self.checkpoint()
        return True

    def _train_group(self, group: Sequence[StudentRun]) -> bool:
        """Train those farthest behind to the end of their epoch, to where others wait, or until the
        roster changes; False when the control says stop."""
        epoch, first = group[0].epoch, group[0].step
        begin = (epoch - 1) * self.batches.steps_per_epoch
        waiting = [s.step for s in self.roster.going if s.step > first]
        goal = min([*waiting, *(s.silent_until for s in group if s.silent)], default=None)
        for student in group:
            student.refresh(epoch)
        started = time.monotonic()
        batches = self.batches.epoch(epoch, start=first - begin)
        with closing(Ahead(batches, self.teachers, group, epoch, self._crew)) as ahead:
            for inputs in ahead:
                if self._tell(group):
                    return True
                if not self._granted and not self.control.tick(count=self.plan.phase == "students"):
                    return False
                self._granted = True
                if self._regroup:  # by a command that came in meanwhile
                    self._regroup = False
                    return True
                self._granted = False
                self._step(inputs(), group, ahead.fill)
                self._housekeeping()
                if self._regroup or group[0].step == goal:
                    break
        if not self._regroup and group[0].step == begin + self.batches.steps_per_epoch:
            self._finish_epoch([s for s in group if s.ended is None], time.monotonic() - started)
        self._regroup = False
        return True

    def _tell(self, group: Sequence[StudentRun]) -> bool:
        """Hand out due commands and prepare whoever begins; whether the group is another one now."""
        changed = self.roster.tell(group)
        if changed:
            self._update_roster()
            return True
        new = [s for s in group if not s.prepared]
        looked = [self._workshop.look_after(student) for student in group]
        if any(looked):
            self._read_taps()  # methods may learn only now what they read
        if any(s.step == 0 for s in new):
            self._begin(new)
        return False

    def _begin(self, group: Sequence[StudentRun]) -> None:
        """What is kept of students before their first step."""
        self._snapshot(0, [s for s in group if not s.silent])
        self.checkpoint()  # the state that guards go back to

    def _step(self, inputs: StepInputs, group: Sequence[StudentRun], meanwhile: Callable[[], None]) -> None:
        epoch, step = group[0].epoch, group[0].step
        per_epoch = self.batches.steps_per_epoch
        rates = {s.name: s.recipe.rate(epoch, step - (epoch - 1) * per_epoch, per_epoch) for s in group}
        values = self._train_students(group, inputs, rates, derive(self.plan.seed, "noise", step), meanwhile)
        for student in group:
            if not student.silent:
                self.meter.take(student, values[student.name], rates[student.name])
        for student in group:
            student.step += 1
        self._steps_done += 1
        self.position = step + 1

    def _train_students(
        self,
        group: Sequence[StudentRun],
        inputs: StepInputs,
        rates: Mapping[str, float],
        noise: int,
        meanwhile: Callable[[], None],
    ) -> dict[str, Tensor]:
        """One step of each: beside each other where that is faster and they draw nothing, then in turn."""

        def one(student: StudentRun) -> Tensor:
            return student.train_step(inputs, rates[student.name])

        values = {} if self._crew is None else self._crew.run(group, one, meanwhile)
        for student in group:
            if student.name not in values:
                with seeded(noise, self.plan.device):  # the same dropout for every student
                    values[student.name] = one(student)
        return values

    def _watch_teachers(self, done: int, count: int) -> None:
        """While teachers look at all pictures for their cache: pause and stop as between steps."""
        if not self.control.tick(count=False):
            raise Stopped

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._last_post >= _POST_EVERY or self.control.paused:
            self.flush()
            self._post_progress(now)
        if now - self._last_checkpoint >= self.plan.checkpoint_seconds:
            self.checkpoint()

    def _finish_epoch(self, group: Sequence[StudentRun], seconds: float) -> None:
        self.flush()
        group = [s for s in group if s.ended is None]  # the flush may have found a fault
        if not group:
            return
        epoch, step = group[0].epoch, group[0].step
        seen = [s for s in group if not s.silent]
        begin = (epoch - 1) * self.batches.steps_per_epoch
        rows = self.meter.epoch_rows(seen, epoch, begin, seconds, self._crew)
        self.record.add_epoch(rows)
        for student in group:
            student.epoch += 1
        if epoch in self.plan.snapshot_epochs:
            self._snapshot(epoch, seen)
        if epoch in self.plan.keep and epoch < self.plan.recipe.epochs:
            self.checkpoints.keep(seen)
        self.position = step
        self.board.post(epoch=rows)
        self._post_progress(time.monotonic())
        if time.monotonic() - self._last_checkpoint >= _EPOCH_CHECKPOINT_EVERY:
            self.checkpoint()

    # ---- who takes part -----------------------------------------------------------------------------

    def receive(self, command: Command) -> None:
        """Take up a command given just now, which is in the plan already; on the training thread."""
        for listener in self.record.listeners:
            listener.command(command)
        self.roster.receive(command)
        if command["kind"] != "set":
            self._regroup = True
            self._update_roster()
        self.roster.tell([s for s in self.roster.going if s.step == command["step"] and s.prepared])
        self._update_roster()

    def _update_roster(self) -> None:
        """After students came or went: what is recorded, read of the teachers, and augmented."""
        wanted = {s.method.second_view for s in self.students if s.method.second_view}
        if wanted and self.batches.second_augment is None:
            self.batches = self.teachers.batches = self._make_batches("batches")
        self._read_taps()
        for student in self.students:
            if not student.silent:
                self.record.declare(student.name, student.columns, student.step)
        self.board.post(roster=[s.name for s in self.students])

    def _read_taps(self) -> None:
        terms = [term for s in self.students for term in s.method.terms.values()]
        self.teachers.reads({tap for term in terms for tap in term.taps})

    def _use_less_memory(self, error: Exception) -> None:
        """Go back to the last checkpoint with half the pictures per forward pass."""
        micro = guards.smaller_batch(self.students, self.plan.recipe.batch_size, error)
        self.meter.clear()
        torch.cuda.empty_cache()
        if self.plan.folder is None:
            raise guards.memory_advice(error) from error
        self.resume()
        for student in self.students:
            student.micro_batch = micro
        self.checkpoint()
        self.board.post(note=guards.memory_note(micro, self.plan.recipe.batch_size))

    # ---- measuring ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Bring the buffered step values to the host, record them, and stop students that failed."""
        self._last_post = time.monotonic()
        for student, fault in self.meter.flush(self.students, self.batches.steps_per_epoch):
            guards.stop_student(student, fault, self.checkpoints)
            self._regroup = True
            self.board.post(note=student.ended["text"] if student.ended else None)
        self.board.post(curves=self.position, details=self.meter.details(self.roster.going))

    def _post_progress(self, now: float) -> None:
        started, first = self._rate_from
        recipe, per_epoch = self.plan.recipe, self.batches.steps_per_epoch
        steps = per_epoch * recipe.epochs
        speed = (self._steps_done - first) / max(now - started, 1e-9)
        # groups that are at different places are trained one after another
        left = sum(steps - step for step in {s.step for s in self.roster.going})
        self.board.post(
            progress={
                "phase": self.plan.phase,
                "seed": self.plan.seed,
                "epoch": self.epoch,
                "epochs": recipe.epochs,
                "step": self.position,
                "steps": steps,
                "rate": speed * len(self.data.train) / per_epoch,
                "eta": left / speed if speed > 0 else None,
                **self.plan.progress,
            }
        )
        if now - started > 20:  # a recent rate, not the mean since the beginning
            self._rate_from = (now, self._steps_done)

    def measure_now(self, names: Sequence[str] | None = None, count: int | None = None) -> dict[str, Any]:
        """Snapshots of students as they are now, on the first `count` evaluation pictures (all if None)."""
        if self.plan.probe is None:
            raise StudyError("This training keeps no probe set, so there is nothing to measure.")
        chosen = [s for s in self.students if names is None or s.name in names]
        probe = self.plan.probe if count is None else self.plan.probe.evaluation_part(count)
        taken = self._measure(chosen, probe, self.epoch)
        return {snapshot.network: snapshot for snapshot in taken}

    def _measure(self, students: Sequence[StudentRun], probe: ProbeSet, epoch: int) -> list[Snapshot]:
        return measure(
            {s.name: (s.net, s.method) for s in students},
            self.plan.teachers,
            self.plan.data,
            probe,
            device=self.plan.device,
            epoch=epoch,
            seed=self.plan.seed,
        )

    def _snapshot(self, epoch: int, students: Sequence[StudentRun]) -> None:
        plan = self.plan
        if plan.probe is None or plan.folder is None or epoch not in plan.snapshot_epochs or not students:
            return
        snapshots = self._measure(students, plan.probe, epoch)
        save_snapshots(plan.folder / "snapshots" / f"epoch-{epoch:05d}.safetensors", snapshots)
        self.board.post(snapshot=(plan.seed, epoch))

    # ---- checkpoints --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write everything needed to go on exactly from the next step."""
        self._last_checkpoint = time.monotonic()
        if self.plan.folder is None:
            return
        self.flush()
        self.record.write_steps()
        self.checkpoints.save(self.students, list(self.roster.cast.students), not self.roster.going)

    def resume(self) -> None:
        """Make the students where the last checkpoint of the folder left them, or at the start."""
        saved = self.checkpoints.load()
        self.roster.assemble(saved)
        self.record.load()
        self.record.go_back({s.name: (guards.recorded_to(s), s.epoch - 1) for s in self.students})
        self.position = max((s.step for s in self.roster.lagging()), default=0)
        self._rate_from = (time.monotonic(), self._steps_done)
