"""Who is trained in one seed: made from the plan and the commands, forked, dropped, brought back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from kdlab.data import ImageData
from kdlab.methods import DataFacts, Method
from kdlab.models.features import NetSpec, StagedNet, inspect_net
from kdlab.training.checkpoint import Checkpoints, Saved
from kdlab.training.commands import Cast, Command
from kdlab.training.plan import RunPlan
from kdlab.training.recipes import Recipe
from kdlab.training.seeds import derive, seeded
from kdlab.training.student import StudentRun
from kdlab.training.variants import Student

MEMORY_FORMAT = torch.channels_last  # faster for convolutions on CPUs and GPUs alike


def build_method(method: Method, student: NetSpec, teachers: Sequence[NetSpec], seed: int) -> None:
    """Let a method make its parts; the same method starts from the same parts in every student."""
    with seeded(derive(seed, "method"), torch.device("cpu")):
        method.build(student, teachers)


class Roster:
    """The students of one seed, and what each of them is still to be told.

    Attributes:
        students: in the order in which they came.
    """

    def __init__(self, plan: RunPlan, checkpoints: Checkpoints, steps_per_epoch: int) -> None:
        self.plan, self.checkpoints = plan, checkpoints
        self.cast = Cast(plan.students, plan.commands, plan.number)
        self.students: list[StudentRun] = []
        self._queues: dict[str, list[Command]] = {}
        self._nets: dict[Any, StagedNet] = {}
        shape = plan.data.input_shape
        self._teacher_specs = [inspect_net(teacher, shape) for teacher in plan.teachers]
        self._facts = data_facts(plan.data, plan.recipe, steps_per_epoch)

    def find(self, name: str) -> StudentRun | None:
        """The student of that name, if it is there."""
        return next((s for s in self.students if s.name == name), None)

    @property
    def going(self) -> list[StudentRun]:
        """Those who have steps left."""
        return [s for s in self.students if s.ended is None and s.epoch <= self.plan.recipe.epochs]

    def lagging(self) -> list[StudentRun]:
        """Those who are farthest behind, all at the same step; empty when all is done."""
        going = self.going
        behind = min(((s.step, s.epoch) for s in going), default=None)
        return [s for s in going if (s.step, s.epoch) == behind]

    # ---- making students -----------------------------------------------------------------------------

    def assemble(self, saved: Saved | None) -> None:
        """Make everybody: at the start of the training, or where the checkpoint left them."""
        self.students.clear()
        held = {} if saved is None else saved.students
        for name in self.cast.students:
            fork = self.cast.fork(name)
            if saved is not None and name in held:
                early = fork is not None and held[name]["silent_until"]
                asked = self._parent(fork) if fork is not None and early else self.plan.students[name]
                student = self._new(name, asked)
                saved.restore(student)
                self._join(student)
            elif self.cast.dropped_elsewhere(name) and not self.cast.forks_of(name):
                continue
            elif fork is None:
                self._join(self._new(name, self.plan.students[name]))
            else:
                parent = self.find(fork["parent"])
                if parent is not None and _is_past(fork, parent):
                    self._repeat(fork)
                # else it is made when its parent gets there

    def _join(self, student: StudentRun) -> StudentRun:
        self.students.append(student)
        self._line_up(student)
        return student

    def _parent(self, fork: Command) -> Student:
        return self.plan.students[fork["parent"]]

    def _new(self, name: str, asked: Student) -> StudentRun:
        """A student at the start of the training."""
        plan = self.plan
        method = asked.method.fresh()
        net = self._net(asked.network)
        build_method(method, inspect_net(net, plan.data.input_shape), self._teacher_specs, plan.seed)
        with seeded(derive(plan.seed, "attach"), torch.device("cpu")):
            method.attach(self._facts)
        method.to(plan.device).to(memory_format=MEMORY_FORMAT)
        student = StudentRun(name, net, method, asked.adapted(plan.recipe), plan.options, plan.device)
        student.refresh(1)
        return student

    def _net(self, network: Any) -> StagedNet:
        """A network with its initial weights: the same for students of one architecture."""
        key = network if network is None or isinstance(network, str) else id(network)
        if key not in self._nets:
            with seeded(derive(self.plan.seed, "student"), torch.device("cpu")):
                net = self.plan.make_student(network)
            self._nets[key] = net.to(self.plan.device).to(memory_format=MEMORY_FORMAT)
        return copy.deepcopy(self._nets[key])

    # ---- commands ------------------------------------------------------------------------------------

    def _line_up(self, student: StudentRun) -> None:
        """Look up what a student is still to be told."""
        ahead = [c for c in self.cast.queue(student.name) if c["step"] >= student.step]
        forks = [
            c
            for c in self.cast.forks_of(student.name)
            if c["step"] >= student.step and self.find(c["student"]) is None
        ]
        place = {id(c): i for i, c in enumerate(self.plan.commands)}
        queue = sorted([*ahead, *forks], key=lambda c: (c["step"], place[id(c)]))
        if self.cast.dropped_elsewhere(student.name):  # here it is needed for its forks alone
            last = max((c["step"] for c in forks), default=student.step)
            queue = [c for c in queue if c["step"] <= last]
            queue.append({"kind": "drop", "step": last})
        self._queues[student.name] = queue

    def tell(self, group: Sequence[StudentRun]) -> bool:
        """Let students hear what is due before their next step; whether the roster has changed."""
        changed = False
        for student in group:
            if student.silent and student.step == student.silent_until:
                student = self._become(student)
                changed = True
            queue = self._queues[student.name]
            while queue and queue[0]["step"] <= student.step and student.ended is None:
                command = queue.pop(0)
                if command["kind"] == "set":
                    term = student.method.term(command["term"])
                    term.set(**command["change"])
                    term.schedule = term.schedule.over(self._facts.epochs, self._facts.milestones)
                    student.refresh(student.epoch)
                elif command["kind"] == "drop":
                    student.ended = _ended("dropped", student, "dropped by hand")
                    changed = True
                else:
                    self._fork(command, student)
                    changed = True
        return changed

    def receive(self, command: Command) -> None:
        """Take up a command that was given just now (and that is in the plan's list already)."""
        kind, name = command["kind"], command["student"]
        if kind == "add":
            self._join(self._new(name, self.plan.students[name]))
            return
        if kind == "fork":
            parent = self.find(command["parent"])
            if parent is not None and _is_past(command, parent):
                self._repeat(command)
            elif parent is not None:
                self._line_up(parent)
            return
        student = self.find(name)
        if student is not None:
            self._line_up(student)

    def _fork(self, command: Command, parent: StudentRun) -> None:
        """A new student that begins where its parent is."""
        name = command["student"]
        if self.find(name) is not None:
            return
        student = self._join(self._new(name, self.plan.students[name]))
        tensors, info = parent.state()
        student.inherit(tensors, info, same_method=command["method"] is None)
        self._settle(student)

    def _settle(self, student: StudentRun) -> None:
        student.refresh(student.epoch)
        self._line_up(student)
        self.checkpoints.keep([student])  # where later forks of it can begin

    def _repeat(self, fork: Command) -> None:
        """A fork made after the fact: it does again what its parent did, from the nearest kept state,
        and becomes itself at the step of the fork."""
        student = self._new(fork["student"], self._parent(fork))
        kept = [step for step in self.checkpoints.kept_steps(fork["parent"]) if step <= fork["step"]]
        if kept:
            tensors, info = self.checkpoints.kept(fork["parent"], kept[-1])
            student.inherit(tensors, info, same_method=True)
        student.silent_until = fork["step"]
        student.refresh(student.epoch)
        self._join(student)

    def _become(self, student: StudentRun) -> StudentRun:
        """The end of a repetition: from here on it is the fork."""
        fork = self.cast.fork(student.name)
        assert fork is not None
        tensors, info = student.state()
        new = self._new(student.name, self.plan.students[student.name])
        new.inherit(tensors, info, same_method=fork["method"] is None)
        new.silent_until = 0
        self.students[self.students.index(student)] = new
        self._settle(new)
        return new


def _is_past(fork: Command, parent: StudentRun) -> bool:
    """Whether a parent will not come to the step of a fork (any more)."""
    return parent.step > fork["step"] or parent.ended is not None


def _ended(kind: str, student: StudentRun, text: str) -> dict[str, Any]:
    return {"kind": kind, "step": student.step, "epoch": student.epoch, "text": text}


def data_facts(data: ImageData, recipe: Recipe, steps_per_epoch: int) -> DataFacts:
    """What methods may know of the training data."""
    split = data.train
    index, labels = split.index.cpu(), split.labels.cpu()
    size = int(index.max()) + 1
    by_index = torch.full((size,), -1, dtype=torch.int64)
    by_index[index] = labels
    return DataFacts(size, by_index, data.num_classes, steps_per_epoch, recipe.epochs, recipe.drops)
