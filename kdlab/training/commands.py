"""What was commanded by hand, and what it means for each student of each seed.

A command is a plain mapping, kept in the order given. All have "kind", "seed", "seed_number" (of the
seed it was given in, from 1), "step" and "epoch" (where it takes effect), "student" and "text";

- "set": also "term" and "change"; holds for its seed and those trained later;
- "add": also "method" and "own" (see `Student.own`); the student is trained in every seed, from the start;
- "fork": also "parent" and "method" (None: the parent's); made in every seed when the parent reaches "step";
- "drop": the student is trained no further, in any seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.methods import Term, make
from kdlab.training.variants import Student

Command = dict[str, Any]


def everybody(
    asked: Mapping[str, Student], commands: Sequence[Command], networks: Mapping[str, Any]
) -> dict[str, Student]:
    """All students: those asked for, then those added and forked, in the order of the commands.

    Args:
        asked: from the beginning.
        commands: so far.
        networks: student name -> module or function, for added students whose network has no name.
    """
    students = dict(asked)
    for command in commands:
        if command["kind"] == "add":
            own = command["own"]
            network = own.get("network")
            if isinstance(network, dict):
                network = networks.get(command["student"], network)
            students[command["student"]] = Student(
                make(command["method"]), network=network, **own.get("recipe", {})
            )
        elif command["kind"] == "fork":
            parent = students[command["parent"]]
            method = parent.method if command["method"] is None else make(command["method"])
            students[command["student"]] = Student(method, network=parent.network, **parent.recipe)
    return students


class Cast:
    """Who plays in one seed, and what each is told when; `commands` may grow while it is in use."""

    def __init__(self, students: Mapping[str, Student], commands: Sequence[Command], number: int) -> None:
        self.students, self.commands, self.number = students, commands, number

    def fork(self, name: str) -> Command | None:
        """The command that forked this student, or None where it begins with the training."""
        forks = (c for c in self.commands if c["kind"] == "fork" and c["student"] == name)
        return next(forks, None)

    def dropped_elsewhere(self, name: str) -> bool:
        """Whether it was dropped in another seed than this, so that this one leaves it as it is."""
        return any(
            c["kind"] == "drop" and c["student"] == name and c["seed_number"] != self.number
            for c in self.commands
        )

    def queue(self, name: str) -> list[Command]:
        """What a student is told, in order: its own changes and its drop, and before a fork those of
        its parent."""
        fork = self.fork(name)
        told = [
            c
            for c in self.commands
            if c["student"] == name
            and (
                (c["kind"] == "set" and c["seed_number"] <= self.number)
                or (c["kind"] == "drop" and c["seed_number"] == self.number)
            )
        ]
        if fork is not None:
            told += [c for c in self.before(fork) if c["kind"] == "set"]
        place = {id(c): i for i, c in enumerate(self.commands)}
        return sorted(told, key=lambda c: (c["step"], place[id(c)]))

    def before(self, fork: Command) -> list[Command]:
        """What its parent was told before a fork was made."""
        place = {id(c): i for i, c in enumerate(self.commands)}
        mine = (fork["step"], place[id(fork)])
        return [c for c in self.queue(fork["parent"]) if (c["step"], place[id(c)]) < mine]

    def forks_of(self, name: str) -> list[Command]:
        """The forks made of a student."""
        return [c for c in self.commands if c["kind"] == "fork" and c["parent"] == name]

    def terms(self, name: str, step: int) -> dict[str, Term]:
        """The terms of a student as they are just before step `step`, by the commands alone."""
        method = self.students[name].method.fresh()
        for command in self._changes(name):
            if command["step"] <= step:
                method.term(command["term"]).set(**command["change"])
        return dict(method.terms)

    def _changes(self, name: str) -> list[Command]:
        """Changes of the method a student has now; a fork that keeps its parent's method has the parent's."""
        fork = self.fork(name)
        told = [c for c in self.queue(name) if c["kind"] == "set"]
        kept = [] if fork is None or fork["method"] is not None else self._changes(fork["parent"])
        return [c for c in told if c["student"] == name or c in kept]


def upgraded(command: Command) -> Command:
    """A command of an older record, which knew only changes of terms."""
    return {"kind": "set", **command}
