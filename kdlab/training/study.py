"""A study: one data set, frozen teachers, and named students that differ only in their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdlab import data as kdata
from kdlab.data import ImageData, ProbeSet, choose_probe_set
from kdlab.errors import ConfigError, DataError, KDLabError, StudyError
from kdlab.models.features import NetSpec, inspect_net
from kdlab.training import config
from kdlab.training.files import append_json_line
from kdlab.training.options import Options
from kdlab.training.recipes import Recipe, get_recipe
from kdlab.training.roster import build_method
from kdlab.training.seeds import choose_device, seeded
from kdlab.training.snapshots import load_probe_set, snapshot_epochs
from kdlab.training.teacher_specs import TeacherSpec, check_teachers, teacher_specs
from kdlab.training.variants import Student, class_name
from kdlab.training.worker import Worker

if TYPE_CHECKING:
    from kdlab.panels import Lab
    from kdlab.training.footprint import Footprint


class Study(Worker):
    """A comparison of students that differ only in their loss, trained in lockstep.

    All students start from the same weights, see the same batches with the same augmentation, and
    share one pass of each teacher. Nothing is trained before `fit`, `start` or a panel's Play; what
    cannot work is refused here.

    Args:
        data: name of a data set (`kdlab.data.names()`), a folder of pictures, a path to an npz
            file, arrays, or an `ImageData`.
        teacher: name of a network (trained on demand and cached), a path or a pair (name, path) of
            weights, a module, or a list of these; None where no method needs one.
        student: name of a network, a module (its weights are every seed's start), or a function
            that returns a new network.
        students: name -> method: "ce", "kd", a sum like "kd + at", or a `Method`.
        epochs: length; None takes the recipe's. Milestones are scaled with it.
        seed, seeds: one seed, or how many (from `seed` on), or a list of them.
        folder: where the study lives; None makes a new one below `runs/`. A folder that holds this
            very study is gone on with, any other is refused.
        recipe: name or `Recipe`; None takes the data set's default.
        batch_size, lr, augment: change the recipe.
        labels_per_class: train the students on so many images a class only (the same images for
            every seed); the teacher still learns from all of them.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        data_root: where data sets lie; else the environment variable KDLAB_DATA, else `data/`.
        teacher_epochs, teacher_recipe, teacher_seed: of teachers trained on demand.
        snapshots: epochs at which representations are kept: "geometric", "all", "ends" or a list.
        probe_size: pictures of the probe set, half validation and half test.
        evaluate_every: epochs between two looks at validation and test accuracy; the last is always
            looked at.
        checkpoint_seconds: at most so much training is lost when the process is killed.
        **options: how it is computed and what is kept, see `kdlab.training.Options`: precision,
            teacher_precision, compile, deterministic, teacher_views, micro_batch, keep, threads.

    Raises:
        ConfigError: a name, value or combination that cannot work.
        DataError: the data set is missing or damaged.
        StudyError: the folder holds something else or cannot be written to.

    >>> kdlab.Study("digits", students={"alone": "ce", "exits": "byot"}, epochs=2, folder="runs/trial")
    Study(digits: alone, exits; 2 epochs, seeds [0]; new)
    >>> study.table()["network"].tolist()  # of one that is trained
    ['resnet8', 'alone', 'KD']
    >>> study.methods["KD"], study.snapshot_epochs()
    (KD[ce=0.1, kd=0.9], [0, 1, 2, 3])
    """

    def __init__(
        self,
        data: Any = "digits",
        teacher: Any = None,
        student: str | nn.Module | Callable[[], nn.Module] = "resnet8",
        students: Any = None,
        *,
        epochs: int | None = None,
        seed: int = 0,
        seeds: int | list[int] | None = None,
        folder: str | Path | None = None,
        recipe: str | Recipe | dict[str, Any] | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        augment: str | None = None,
        labels_per_class: int | None = None,
        device: str = "auto",
        data_root: str | Path | None = None,
        teacher_epochs: int | None = None,
        teacher_recipe: str | Recipe | dict[str, Any] | None = None,
        teacher_seed: int = 0,
        snapshots: str | Sequence[int] = "geometric",
        probe_size: int = 2000,
        evaluate_every: int = 1,
        checkpoint_seconds: float = 30.0,
        **options: Any,
    ) -> None:
        self.device = choose_device(device)
        self.options = Options.of(options).check(self.device)
        self.checkpoint_seconds = config.seconds("checkpoint_seconds", checkpoint_seconds)
        self._asked_students = config.named_students(
            {"alone": "ce", "KD": "kd"} if students is None else students
        )
        self.seeds = config.seed_list(seed, seeds)
        whole = kdata.load(data, root=data_root)
        self.recipe = get_recipe(
            recipe, data_name=whole.name, epochs=epochs, batch_size=batch_size, lr=lr, augment=augment
        )
        self._student = student
        self._specs = teacher_specs(teacher, seed=teacher_seed, epochs=teacher_epochs, recipe=teacher_recipe)
        self.whole_data = whole
        self.data = (
            whole if labels_per_class is None else kdata.load(whole, labels_per_class=labels_per_class)
        )
        self._views_only = False
        self._given = {
            "data": data if isinstance(data, str) else whole,
            "teacher": teacher,
            "student": student,
            "networks": {name: one.network for name, one in self._asked_students.items()},
        }
        asked = {
            "data": data if isinstance(data, str) else {"name": whole.name},
            "fingerprint": whole.fingerprint,
            "labels_per_class": labels_per_class,
            "teachers": [spec.to_dict() for spec in self._specs],
            "student": student if isinstance(student, str) else {"module": class_name(student)},
            "students": {name: one.method.config() for name, one in self._asked_students.items()},
            "own": {name: own for name, one in self._asked_students.items() if (own := one.own())},
            "recipe": self.recipe.to_dict(),
            "seeds": self.seeds,
            "snapshots": snapshot_epochs(snapshots, self.recipe.epochs),
            "probe_size": probe_size,
            "evaluate_every": config.positive("evaluate_every", evaluate_every),
            "options": self.options.to_dict(),
        }
        self._start_empty(config.choose_folder(folder, whole.name), asked)
        self._check_names()
        self._check_networks()
        if config.check_folder(self.folder, asked):
            self._read_folder()
        else:
            self._probe_set = choose_probe_set(self.data, probe_size)

    def _check_names(self) -> None:
        for spec in self._specs:
            if spec.name in self._asked_students:
                raise ConfigError(f"{spec.name!r} names a student and a teacher; rename the student.")
        for student in self._asked_students.values():
            self._check_view(student)
        kept = () if isinstance(self.options.keep, str) else self.options.keep
        beyond = [epoch for epoch in kept if not 1 <= epoch <= self.epochs]
        if beyond:
            raise ConfigError(f"keep names epochs {beyond}, and the training has epochs 1 to {self.epochs}.")

    def _check_view(self, student: Student) -> None:
        """Refuse a second view that is not the one of the other students."""
        wanted = student.method.second_view
        others = {s.method.second_view: name for name, s in self.students.items() if s.method.second_view}
        for view, name in others.items():
            if wanted and view != wanted:
                raise ConfigError(
                    f"{student.method.title} wants {wanted!r} as second view of each batch and student "
                    f"{name!r} has {view!r}, and a study has one; put them into two studies."
                )

    def _check_networks(self) -> None:
        """Build everything once, untrained, so that what cannot work is refused now."""
        self._teacher_shapes = [
            inspect_net(net, self.data.input_shape, spec.name)
            for net, spec in zip(check_teachers(self._specs, self.data), self._specs, strict=True)
        ]
        shapes: dict[Any, NetSpec] = {}
        for student in self._asked_students.values():
            self._check_student(student, shapes)

    def _check_student(self, student: Student, shapes: dict[Any, NetSpec] | None = None) -> None:
        """Refuse a student that cannot take the pictures, or whose method cannot work with the networks."""
        self._check_view(student)
        known = {} if shapes is None else shapes
        key = student.network if isinstance(student.network, str | None) else id(student.network)
        if key not in known:
            known[key] = self._student_shape(student.network)
        student.adapted(self.recipe)
        if not hasattr(self, "_teacher_shapes"):  # a loaded study
            self._check_networks()
        build_method(student.method.fresh(), known[key], self._teacher_shapes, 0)

    def _student_shape(self, network: Any) -> NetSpec:
        shape = self.data.input_shape
        try:
            with seeded(0, torch.device("cpu")):  # training may be under way in another thread
                student = inspect_net(self._new_student(network), shape)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, KDLabError):
                raise
            raise ConfigError(
                f"The student cannot take pictures of size {shape}: {str(error).splitlines()[0]}"
            ) from error
        if student.num_classes != self.data.num_classes:
            raise ConfigError(
                f"The student tells {student.num_classes} classes apart and {self.data.name} has "
                f"{self.data.num_classes}; give a student with {self.data.num_classes} outputs."
            )
        return student

    def replay(self, folder: str | Path | None = None) -> Study:
        """A new, untrained study that does the same again: same seeds, and every command at its step.

        `fit` trains it to the same weights (on a CPU in fp32 to the bit).

        Args:
            folder: of the new study; None takes a free name beside this one.
        """
        if folder is None:
            beside = {path.name for path in self.folder.parent.glob("*")}
            folder = self.folder.with_name(config.free_name(f"{self.folder.name}-replay", beside))
        again = Study.__new__(Study)
        again._take(self.asked, Path(folder), self._given, self.device)
        if config.check_folder(again.folder, self.asked):
            raise StudyError(f"{again.folder} holds this study already; choose another folder.")
        again.whole_data, again.data, again._views_only = self.whole_data, self.data, self._views_only
        again._probe_set, again._networks = self.probe_set, dict(self._networks)
        again.checkpoint_seconds = self.checkpoint_seconds
        again._require_whole()
        again._write_asked()
        for command in self.record.commands:
            append_json_line(again.folder / "commands.jsonl", command)
            again.record.commands.append(dict(command))
        return again

    def _take(self, asked: dict[str, Any], folder: Path, given: dict[str, Any], device: torch.device) -> None:
        """Become the study that a record describes; `given` holds what has no name."""
        self.device = device
        self.options = Options.of(asked["options"])
        self.checkpoint_seconds = 30.0
        self.seeds = list(asked["seeds"])
        self.recipe = Recipe(**asked["recipe"])
        self._given = given
        self._asked_students = config.recorded_students(asked, given.get("networks") or {})
        self._student = given["student"] if given["student"] is not None else asked["student"]
        self._specs = _recorded_specs(asked["teachers"], given["teacher"])
        self._start_empty(folder, asked)

    def footprint(self) -> Footprint:
        """How much room the finished study takes on the disk; prints as a sentence."""
        from kdlab.training.footprint import footprint

        return footprint(self)

    def panel(self, kind: str = "study") -> Any:
        """A panel with controls and live figures, for notebooks.

        Args:
            kind: "study" (switches, weights, play / pause / step / stop), "representations", "probes",
                "attention", "logits" or "compare".

        Raises:
            UnknownNameError: there is no such panel.
        """
        from kdlab.panels import open_panel

        return open_panel(self, kind)

    def lab(self) -> Lab:
        """All panels on tabs, with one epoch and one selection in common."""
        from kdlab.panels import Lab

        return Lab(self)

    def _shown_in_cell(self) -> Callable[[], None]:
        """Show a panel; what keeps it up to date until the training ends."""
        from IPython.display import display

        from kdlab.panels import StudyPanel

        panel = StudyPanel(self, in_cell=True)
        display(panel)  # type: ignore[no-untyped-call]
        return panel.watch

    def report(self, path: str | Path | None = None) -> Path:
        """Write one self-contained HTML report; `report.html` in the study folder by default."""
        from kdlab.report import build_report

        return build_report(self, path)

    def code(self) -> str:
        """A short Python snippet that makes this very study again, live changes included."""
        return config.study_code(self.asked, self.record.marks(), self.folder)

    def __repr__(self) -> str:
        names = ", ".join(self.names)
        return f"Study({self.data.name}: {names}; {self.epochs} epochs, seeds {self.seeds}; {self.state})"


def load_study(
    folder: str | Path,
    *,
    data: Any = None,
    teacher: Any = None,
    student: Any = None,
    networks: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
) -> Study:
    """Open the folder of a finished, stopped or killed study; `.fit()` goes on with it.

    Views need nothing but the folder. To train on, the data set must be at hand; what was given as
    an object (arrays, modules) must be given again.

    Args:
        folder: of the study.
        data, teacher, student: only where the study was made from objects, not names.
        networks: student name -> its own network, where that was an object.
        data_root: where data sets lie.
        device: to go on with.

    Raises:
        StudyError: the folder holds no study, a damaged one, or one that does not fit what is given.

    >>> kdlab.load_study(study.folder)
    Study(digits: alone, KD; 3 epochs, seeds [0]; finished)
    """
    folder = Path(folder)
    record = config.read_study(folder)
    asked = record["asked"]
    study = Study.__new__(Study)
    given = {"data": data, "teacher": teacher, "student": student, "networks": networks}
    study._take(asked, folder, given, choose_device(device))
    study.options.check(study.device)
    named = data if data is not None else asked["data"]
    try:
        if isinstance(named, dict):
            raise DataError(f"The data set {named['name']!r} was given as arrays.")
        whole = kdata.load(named, root=data_root)
        if whole.fingerprint != asked["fingerprint"]:
            raise StudyError(
                f"The data set {whole.name!r} at hand is not the one this study was made with; "
                "give the same one (data=... or data_root=...)."
            )
        study.whole_data, study._views_only = whole, False
        few = asked["labels_per_class"]
        study.data = whole if few is None else kdata.load(whole, labels_per_class=few)
    except (DataError, ConfigError):
        if data is not None or data_root is not None:
            raise
        probe = load_probe_set(folder / "probe_set.safetensors")
        study.data = study.whole_data = _data_for_views(probe, asked, record["facts"])
        study._views_only, study._train_images = True, record["facts"]["train_images"]
    study._read_folder()
    study._warn_of_other_versions(record["environment"])
    return study


def _recorded_specs(recorded: list[dict[str, Any]], given: Any) -> list[TeacherSpec]:
    """Teachers as recorded; those that were modules are taken from what is given now."""
    specs = [TeacherSpec(**{k: v for k, v in one.items() if k != "module"}) for one in recorded]
    if given is None:
        return specs
    again = teacher_specs(given)
    if len(again) != len(recorded):
        raise StudyError(f"This study has {len(recorded)} teacher(s), and {len(again)} were given.")
    return [
        replace(new, name=old.name) if one["module"] or new.checkpoint else old
        for one, old, new in zip(recorded, specs, again, strict=True)
    ]


def _data_for_views(probe: ProbeSet, asked: Mapping[str, Any], facts: Mapping[str, Any]) -> ImageData:
    """A stand-in made of the probe set alone: names, shapes and held-out pictures for views."""
    name = asked["data"]["name"] if isinstance(asked["data"], dict) else asked["data"]
    x, y = probe.images.permute(0, 2, 3, 1).numpy(), probe.labels.numpy()
    arrays = {
        "x_train": x[probe.fit],
        "y_train": y[probe.fit],
        "x_test": x[~probe.fit],
        "y_test": y[~probe.fit],
        "class_names": facts["class_names"],
    }
    coarse = facts.get("coarse_names")
    return replace(
        kdata.load(arrays),
        name=name,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        coarse_names=tuple(coarse) if coarse else None,
        fine_to_coarse=tuple(facts["fine_to_coarse"]) if coarse else None,
        factor_names={name: tuple(values) for name, values in facts.get("factor_names", {}).items()},
    )
