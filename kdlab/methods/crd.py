"""CRD: each picture's student vector finds its own teacher vector among thousands of others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import noise_contrastive, similarities, unit_rows
from kdlab.methods.base import DataFacts, Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import choice, number, require_built, same_classes, whole
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

_MOST = 16384
_SIDES = ("student", "teacher")


@dataclass(frozen=True)
class Draw:
    """Negatives of a batch.

    Attributes:
        rows: (m,) the entries of the bank that are scored; None: all n of them (then m = n).
        chosen: (B, K) which of the m scores are used by each picture; None: all.
        counts: (B, m) which of them are negatives; None: all.
    """

    rows: Tensor | None
    chosen: Tensor | None
    counts: Tensor | None


@register
class CRD(Method):
    """Contrastive representation distillation, with a memory bank of all training pictures for each network.

        v   = (W f + b) / ||.||                        f: embedding (B, d); v (B, 128), for each network
        o_k = exp(<v, bank_k> / 0.07) / Z
        side = -(1/B) [ sum log(o_0 / (o_0 + c + eps)) + sum_neg log(c / (o_k + c + eps)) ]
        crd  = side(v_s against the teacher's bank) + side(v_t against the student's bank)
        L    = CE(z_s, y) + 0.8 crd (+ KD_4)

    o_0 is the picture's own entry; K negatives of other classes are drawn for each picture without
    replacement. c = K / n, n pictures, eps = 1e-7. Z = n times the mean of exp(...) over the first batch,
    one for each side, and constant from then on. After each step in training both banks follow:
    bank[index] = (0.5 bank[index] + 0.5 v) / ||.||. They start uniform in +-sqrt(3 / 128).

    Both embeddings are trained, the teacher's too; the teacher itself is not. Banks and Z are saved with
    the method, so that a resumed run goes on exactly. Scores cost B n products for each side and the
    draw B n random numbers; `shared_draw` makes one draw for the whole batch, which is cheaper.

    Look at the scores of positives and negatives, and at a picture's nearest entries in the bank.

    Args:
        weight: weight of `crd`.
        negatives: K; None: 16384, or where there are fewer, as many as every picture has of other
            classes (ours).
        pool: "sampled": K entries of the bank; "all": every entry of another class; "batch": no bank, the
            vectors of the other pictures of the batch instead, as constants, n = B (ours).
        shared_draw: one draw of K negatives for a batch, of which each picture leaves out its class
            (uniform for each picture as before; ours).
        tau: the temperature 0.07.
        momentum: of the banks.
        width: of the vectors v.
        ce, kd: weights of the cross-entropy and of a KD term; the authors use KD with weight 0 or 1.
        temperature: tau of the KD term.

    >>> kdlab.methods.CRD()
    CRD[ce=1, crd=0.8, kd=0]
    >>> kdlab.methods.CRD(kd=1, pool="batch").active(epoch=1)
    ['ce', 'crd', 'kd']
    """

    key = "crd"
    title = "CRD (contrastive)"
    paper = "Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699"
    family = "relation"
    draws = True
    status = "code"
    trained = {
        "embed_student": "linear layer from the student's embedding to the common width",
        "embed_teacher": "the same for the teacher's embedding",
    }
    presets = {"with KD": {"weight": 0.8, "kd": 1.0}}

    bank_student: Tensor
    bank_teacher: Tensor
    normalisers: Tensor
    labels: Tensor
    used: Tensor

    def __init__(
        self,
        weight: float = 0.8,
        negatives: int | None = None,
        pool: Literal["sampled", "all", "batch"] = "sampled",
        shared_draw: bool = False,
        tau: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        self.pool = choice(self, "pool", pool, ("sampled", "all", "batch"))
        taps: tuple[str, ...] = ("student.embedding", "teacher.embedding", "target")
        if self.pool != "batch":
            taps += ("index",)
        asks = "tell its own picture from others by the teacher's vectors, and the other way round"
        super().__init__(ce_term(ce), Term("crd", weight, taps, asks), kd_term(kd, optional=True))
        if negatives is not None and self.pool != "sampled":
            raise ConfigError(f"CRD(negatives=...) belongs to pool='sampled', not to pool={pool!r}.")
        self.negatives = None if negatives is None else whole(self, "negatives", negatives, minimum=1)
        self.shared_draw = bool(shared_draw)
        self.tau = number(self, "tau", tau, above=0)
        self.momentum = number(self, "momentum", momentum, minimum=0)
        if self.momentum >= 1:
            raise ConfigError(
                f"CRD(momentum=...) must be below 1, or the banks never change, not {momentum!r}."
            )
        self.dimensions = whole(self, "width", width, minimum=1)
        self.temperature = number(self, "temperature", temperature, above=0)
        self.attached = False

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        self.embed_student = nn.Linear(student.embedding_dim, self.dimensions)
        self.embed_teacher = nn.Linear(teachers[0].embedding_dim, self.dimensions)
        self.register_buffer("normalisers", torch.full((2,), -1.0))  # Z of each side; -1: not known yet

    def attach(self, data: DataFacts) -> None:
        super().attach(data)
        self.attached = True
        if self.pool == "batch":
            return
        used = (data.labels >= 0).nonzero()[:, 0]
        largest = int(torch.bincount(data.labels[used], minlength=data.num_classes).max())
        self.pictures, least = len(used), len(used) - largest
        if least < 1:
            raise ConfigError("CRD needs negatives, and all training pictures are of one class; give it two.")
        if self.negatives is not None and self.negatives > least:
            raise ConfigError(
                f"CRD(negatives={self.negatives}) is more than the {least} pictures that every picture "
                "has of other classes; choose fewer, or None for as many as possible."
            )
        self.drawn = self.negatives or min(_MOST, least)
        self.looked_at = self.drawn + largest  # among so many every picture finds K of other classes
        bound, device = (3 / self.dimensions) ** 0.5, self.embed_student.weight.device
        for side in _SIDES:
            bank = torch.empty(data.size, self.dimensions).uniform_(-bound, bound)
            self.register_buffer(f"bank_{side}", bank.to(device))
        self.register_buffer("labels", data.labels.to(device, copy=True), persistent=False)
        self.register_buffer("used", used.to(device), persistent=False)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = ce_and_kd(step, active, self.temperature)
        if "crd" in active:
            require_built(self)
            v_s = unit_rows(self.embed_student(step.student.embedding))
            v_t = unit_rows(self.embed_teacher(step.teacher.embedding))
            compare = self._in_batch if self.pool == "batch" else self._in_banks
            sides = compare(v_s, v_t, step)
            self.details = {f"crd/{name} anchor": s.detach() for name, s in zip(_SIDES, sides)}
            values["crd"] = sides[0] + sides[1]
        return values

    # ---- with banks ---------------------------------------------------------------------------------

    def _in_banks(self, v_s: Tensor, v_t: Tensor, step: Step) -> list[Tensor]:
        """Both sides of the loss, the student's anchor first; the banks follow."""
        index = step.index
        if not self.attached or index is None:
            raise ConfigError("CRD keeps a bank by picture and needs attach(...) and Step.index.")
        draw = self._draw(step.target)
        sides = []
        for side, (anchor, bank) in enumerate(((v_s, self.bank_teacher), (v_t, self.bank_student))):
            # copies of the bank, which changes before the backward pass reads them
            own = (anchor * bank[index]).sum(1)
            others = similarities(anchor, bank.clone() if draw.rows is None else bank[draw.rows])
            if draw.chosen is not None:
                others = others.gather(1, draw.chosen)
            sides.append(self._side(side, own, others, draw.counts, self.pictures))
        if self.training:
            self._remember(index, v_s, v_t)
        return sides

    def _draw(self, target: Tensor) -> Draw:
        """The negatives of each picture."""
        if self.pool == "all":
            return Draw(None, None, self._eligible(target, self.labels))
        if self.shared_draw:
            order = torch.randperm(self.pictures, device=target.device)[: self.looked_at]
            rows = self.used[order]
            eligible = self._eligible(target, self.labels[rows])
            return Draw(rows, None, eligible & (eligible.cumsum(1) <= self.drawn))
        eligible = self._eligible(target, self.labels)
        keys = torch.rand(eligible.shape, device=target.device).masked_fill(~eligible, -1.0)
        return Draw(None, keys.topk(self.drawn, dim=1, sorted=False).indices, None)

    @staticmethod
    def _eligible(target: Tensor, labels: Tensor) -> Tensor:
        """(B, m) whether an entry with one of these m labels can be a negative."""
        return (labels != target[:, None]) & (labels >= 0)

    @torch.no_grad()
    def _remember(self, index: Tensor, v_s: Tensor, v_t: Tensor) -> None:
        for bank, v in ((self.bank_student, v_s), (self.bank_teacher, v_t)):
            mixed = self.momentum * bank[index] + (1 - self.momentum) * v.to(bank.dtype)
            bank.index_copy_(0, index, unit_rows(mixed))

    # ---- without ------------------------------------------------------------------------------------

    def _in_batch(self, v_s: Tensor, v_t: Tensor, step: Step) -> list[Tensor]:
        """Both sides with the batch in place of the banks."""
        counts = step.target[:, None] != step.target
        sides = []
        for side, (anchor, other) in enumerate(((v_s, v_t), (v_t, v_s))):
            scores = similarities(anchor, other.detach())
            sides.append(self._side(side, scores.diagonal(), scores, counts, len(counts)))
        return sides

    # ---- both ---------------------------------------------------------------------------------------

    def _side(self, side: int, own: Tensor, others: Tensor, counts: Tensor | None, pictures: int) -> Tensor:
        """One side from the similarities `own` (B,) and `others` (B, m); sets Z where it is unknown."""
        many = others.shape[1] if counts is None else counts.sum(1, keepdim=True)
        with torch.no_grad():
            weights = torch.exp(others / self.tau)
            total = torch.exp(own / self.tau).sum() + (weights if counts is None else weights * counts).sum()
            entries = len(own) + (len(own) * many if isinstance(many, int) else many.sum())
            known = self.normalisers[side].to(total.dtype)
            z = torch.where(known > 0, known, pictures * total / entries)
            if self.training:
                self.normalisers[side] = z
        return noise_contrastive(own, others, z, many / pictures, counts, self.tau)
