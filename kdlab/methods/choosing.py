"""Which teacher a student listens to at which stage, by what linear probes can read from each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.methods.probing import probe_row
from kdlab.methods.step import Preparation
from kdlab.models.features import StagedNet

RULES = (
    "best_per_stage",
    "one_for_all_stages",
    "top_m_mean",
    "better_than_student_probe",
    "random",
    "worst",
    "all",
)


def select(
    table: Sequence[Sequence[float]],
    rule: str,
    top: int = 2,
    seed: int = 0,
    student: Sequence[float] | None = None,
) -> list[list[float]]:
    """Share of each teacher at each stage, from the probe table alone: M rows of J numbers.

    The shares of a stage sum to 1, or to 0 where "better_than_student_probe" finds no such teacher. Of
    equals, the first counts.

    Args:
        table: M rows of J accuracies.
        rule: one of `RULES`.
        top: m of "top_m_mean".
        seed: of "random".
        student: J accuracies of the student's own probes, for "better_than_student_probe".
    """
    teachers, stages = range(len(table)), range(len(table[0]))
    generator = torch.Generator().manual_seed(seed)
    shares = [[0.0] * len(stages) for _ in teachers]
    whole_net = max(teachers, key=lambda k: sum(table[k]))
    for j in stages:
        ranked = sorted(teachers, key=lambda k: -table[k][j])
        if rule == "best_per_stage":
            chosen = ranked[:1]
        elif rule == "one_for_all_stages":
            chosen = [whole_net]
        elif rule == "top_m_mean":
            chosen = ranked[:top]
        elif rule == "worst":
            chosen = [min(teachers, key=lambda k: table[k][j])]
        elif rule == "random":
            chosen = [int(torch.randint(len(teachers), (), generator=generator))]
        elif rule == "better_than_student_probe":
            chosen = [k for k in teachers if student is None or table[k][j] > student[j]]
        else:
            chosen = list(teachers)
        for k in chosen:
            shares[k][j] = 1 / len(chosen)
    return shares


class ProbedTeachers(nn.Module):
    """The probe table of several teachers, and who is chosen from it; nothing here is trained.

    Args:
        own: the student's J stages.
        other: the J stages of each teacher that go with them.
        classes: K.
        rule, top, seed: see `select`.
        pool, split: see `probe_row`.

    Attributes:
        table: (M, J) accuracy of each teacher's probes; -1 before they are known.
        student: (J,) that of the student when it was last looked at, or -1.
        start: (J,) that of the student when it was first looked at, or -1.
    """

    table: Tensor
    student: Tensor
    start: Tensor

    def __init__(
        self,
        own: Sequence[int],
        other: Sequence[Sequence[int]],
        classes: int,
        rule: str,
        top: int = 2,
        seed: int = 0,
        pool: int = 1,
        split: str = "held-out",
    ) -> None:
        super().__init__()
        self.own, self.other, self.classes = own, other, classes
        self.rule, self.top, self.seed = rule, top, seed
        self.pool, self.split = pool, split
        unknown = torch.full((len(other), len(own)), -1.0)
        self.register_buffer("table", unknown)
        self.register_buffer("student", unknown[0].clone())
        self.register_buffer("start", unknown[0].clone())
        self._chosen: list[list[tuple[int, float]]] | None = None

    @property
    def needs_table(self) -> bool:
        """Whether the rule reads the table at all."""
        return self.rule not in ("all", "random") and len(self.other) > 1

    def probe_teachers(self, preparation: Preparation) -> None:
        """Fill the table, once for all students of a study."""

        def work() -> dict[str, Tensor]:
            pairs = zip(preparation.teachers, self.other, strict=True)
            return {"table": torch.stack([self._row(net, stages, preparation) for net, stages in pairs])}

        key = f"probe table: {self.other} pool {self.pool} judged on {self.split}"
        self.table.copy_(preparation.shared(key, work)["table"])
        self._chosen = None

    def probe_student(self, preparation: Preparation, student: StagedNet) -> None:
        """Probe the student as it is now."""
        self.student.copy_(self._row(student, self.own, preparation))
        if (self.start < 0).all():
            self.start.copy_(self.student)
        self._chosen = None

    def _row(self, net: nn.Module, stages: Sequence[int], preparation: Preparation) -> Tensor:
        return probe_row(net, stages, preparation, self.classes, self.pool, self.split)

    def shares(self) -> list[list[float]]:
        """M rows of J shares, from the tables as they are.

        Raises:
            ConfigError: the teachers have not been probed.
        """
        table = self.table.tolist()
        if len(table) == 1:
            return [[1.0] * len(self.own)]
        if self.needs_table and table[0][0] < 0:
            raise ConfigError("The teachers are chosen by probes and have none yet; call prepare(...) first.")
        student = None if (self.student < 0).any() else self.student.tolist()
        return select(table, self.rule, self.top, self.seed, student)

    def chosen(self) -> list[list[tuple[int, float]]]:
        """For each stage the chosen teachers (from 0) and their shares.

        Looked up once for each state of the tables, as reading them waits for the device.
        """
        if self._chosen is None:
            shares = self.shares()
            self._chosen = [
                [(k, row[j]) for k, row in enumerate(shares) if row[j] > 0] for j in range(len(self.own))
            ]
        return self._chosen

    def closed(self) -> float:
        """Share, 0..1, that is closed of the gap from the student's first probes to the chosen teachers'."""
        shares = torch.tensor(self.shares(), dtype=torch.float64)
        table, start, now = (x.double().cpu() for x in (self.table, self.start, self.student))
        goal = (table * shares).sum(0) / shares.sum(0).clamp_min(1e-12)
        apart = (goal > start) & (shares.sum(0) > 0)
        if not apart.any():
            return 1.0  # there was nothing to learn from them
        return float(((now - start) / (goal - start))[apart].clamp(0, 1).mean())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._chosen = None
