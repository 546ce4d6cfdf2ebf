"""Small networks, recorded steps and plain helpers for the tests of kdlab.methods."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from methods_feature_variants import FEATURE_VARIANTS
from methods_rehearsal import CLASSES, FACTS, SHAPE, Rehearsal
from torch import Tensor, nn

from kdlab.methods import (
    AEKD,
    AT,
    BYOT,
    CAMKD,
    CE,
    CMKD,
    CTKD,
    DCKD,
    DIST,
    DKD,
    EBKD,
    GPAC,
    KD,
    LSKD,
    MLKD,
    MTKDSSR,
    NKD,
    SKD,
    SRRL,
    TTM,
    WTTM,
    AverageTeachers,
    FitNet,
    Method,
    ReviewKD,
    Step,
)
from kdlab.methods.watching import WatchedStep
from kdlab.models.features import Features, NetSpec, StagedNet, inspect_net

Stages = Sequence[tuple[int, int]]


class TinyNet(StagedNet):
    """Stages of any width and size: convolution, BN, ReLU, pooled to the size asked for.

    With `hidden` the embedding is a layer behind the pooling, so that there is no final map.
    """

    shows_preacts = True

    def __init__(self, stages: Stages, classes: int = CLASSES, hidden: int | None = None) -> None:
        super().__init__()
        widths = [SHAPE[0], *(c for c, _ in stages)]
        self.sizes = [size for _, size in stages]
        self.stage_names = tuple(f"stage{i + 1}" for i in range(len(stages)))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.bns = nn.ModuleList(nn.BatchNorm2d(c) for c in widths[1:])
        self.hidden = None if hidden is None else nn.Linear(widths[-1], hidden)
        self.fc = nn.Linear(hidden or widths[-1], classes)

    def features(self, x: Tensor) -> Features:
        stages, preacts = [], []
        for conv, bn, size in zip(self.convs, self.bns, self.sizes):
            preacts.append(bn(F.adaptive_avg_pool2d(conv(x), size)))
            x = F.relu(preacts[-1])
            stages.append(x)
        embedding = x.mean((2, 3))
        if self.hidden is not None:
            embedding = F.relu(self.hidden(embedding))
        final = x if self.hidden is None else None
        shown = tuple(preacts) if self.shows_preacts else None
        return Features(self.fc(embedding), embedding, tuple(stages), shown, final=final)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc


PAIRS: dict[str, tuple[Stages, Stages]] = {
    "equal sizes": ([(4, 16), (6, 8), (8, 4)], [(5, 16), (7, 8), (9, 4)]),
    "student larger": ([(4, 16), (6, 16), (8, 8)], [(5, 16), (7, 8), (9, 4)]),
    "teacher larger": ([(4, 16), (6, 8), (8, 4)], [(5, 16), (7, 16), (9, 8)]),
    "other depth": ([(4, 16), (6, 4)], [(5, 16), (7, 8), (9, 8), (11, 4)]),
}


def pair(name: str = "equal sizes", classes: int = CLASSES) -> tuple[TinyNet, TinyNet]:
    """A student in train mode and a frozen teacher in eval mode."""
    torch.default_generator.manual_seed(3)
    student, teacher = (TinyNet(stages, classes) for stages in PAIRS[name])
    with torch.no_grad():
        for bn in teacher.bns:
            bn.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
    return student.train(), teacher.eval().requires_grad_(False)


COLLEAGUES: tuple[Stages, ...] = ([(10, 16), (7, 8), (6, 8), (12, 4)], [(6, 8), (8, 2)])


def with_colleagues(teacher: TinyNet, others: Sequence[Stages] = COLLEAGUES) -> TinyNet:
    """The same teacher, with further ones of other widths and depths in `teacher.colleagues`."""
    teacher.colleagues = [TinyNet(stages).eval().requires_grad_(False) for stages in others]  # type: ignore[assignment]
    return teacher


def faculty(teacher: Any) -> list[Any]:
    """All the teachers of a study."""
    return [teacher, *getattr(teacher, "colleagues", [])]


def specs(student: nn.Module, teacher: nn.Module) -> tuple[NetSpec, list[NetSpec]]:
    teachers = [inspect_net(net, SHAPE, "teacher") for net in faculty(teacher)]
    return inspect_net(student, SHAPE, "student"), teachers


def built(method: Method, student: nn.Module, teacher: nn.Module, seed: int = 11) -> Method:
    torch.default_generator.manual_seed(seed)
    method.build(*specs(student, teacher))
    method.attach(FACTS)
    teachers = faculty(teacher)
    method.prepare(Rehearsal(teachers, memory=_MEMORIES.setdefault(_identity(teachers), {})))
    return method.train()


_MEMORIES: dict[int, dict[str, dict[str, Tensor]]] = {}
"""What methods computed before the first step, by teachers that are the same: as students share it."""


def _identity(teachers: Sequence[Any]) -> int:
    sizes = [net.sizes if isinstance(net, TinyNet) else id(net) for net in teachers]
    weights = [[value.numpy().tobytes() for value in net.state_dict().values()] for net in teachers]
    return hash((str(sizes), *(one for several in weights for one in several)))


def images(batch: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, *SHAPE, generator=generator).to(dtype)
    return x, torch.arange(batch) % CLASSES


def make_step(student: Any, teacher: Any, batch: int = 6, dtype: torch.dtype = torch.float32) -> Step:
    """What the engine hands to a method for one batch."""
    x, y = images(batch, dtype)
    second = view(student, teacher, x.flip(3) + 0.1, y)
    return replace(view(student, teacher, x, y), second=second)


def view(student: Any, teacher: Any, x: Tensor, y: Tensor) -> Step:
    """One of the two views of a step, which by itself is a step without a second one."""
    teachers = faculty(teacher)
    with torch.no_grad():
        seen = tuple(net.features(x) for net in teachers)
    heads = tuple(net.classifier for net in teachers)
    return Step(student.features(x), y, seen, heads, torch.arange(len(y)), 1, images=x)


def seen_again(step: Step, student: Any, method: Method) -> Step:
    """The same batch, seen by the student as it is now; with a second view if the method asks for one."""
    second = step.second if method.second_view else None
    if second is not None:
        second = replace(second, student=student.features(second.images))
    return replace(step, student=student.features(step.images), second=second)


# ---- methods to try

VARIANTS: dict[str, Method] = {
    "ce": CE(),
    "kd": KD(),
    "at": AT(kd=0.5),
    "at-one": AT(stages=(-1,), teacher_stages=(0,)),
    "fitnet": FitNet(kd=0.5),
    "fitnet-last": FitNet(stage=-1, teacher_stage=-1),
    "srrl": SRRL(kd=0.5),
    "srrl-kl-pooled": SRRL(sr_form="kl", connector="pooled"),
    "cmkd": CMKD(),
    "cmkd-one": CMKD(taps=(-1,), factor=1),
    "cmkd-stage": CMKD(branch2_target="stage"),
    "cmkd-detached": CMKD(pseudo_detach=True, warmup=3),
    "reviewkd": ReviewKD(kd=0.5),
    "reviewkd-plain": ReviewKD(fuse="none", distance="mse", pooled=False, teacher_maps="stages", warmup=0),
    "reviewkd-sum": ReviewKD(fuse="sum", stages=(-1, 0), teacher_stages=(-1, 0)),
    "dkd": DKD(),
    "nkd": NKD(),
    "dist": DIST(),
    "ttm": TTM(),
    "wttm": WTTM(),
    "ls_kd": LSKD(),
    "ls_kd-dkd": LSKD("dkd"),
    "ls_kd-mlkd": LSKD("mlkd"),
    "ls_kd-ctkd": LSKD(CTKD(per_sample=True)),
    "mlkd": MLKD(),
    "mlkd-released": MLKD(masks="as_released", temperatures=()),
    "ctkd": CTKD(),
    "ctkd-dkd": CTKD(host="dkd", per_sample=True),
    "skd": SKD(),
    "skd-dkd": SKD(host="dkd", axis="classes", anchor=0.5, width=8),
    "skd-mlp": SKD(axis="mlp", softening="scale", input_norm=False, residual=False),
    "skd-plain": SKD(simplifier=False),
    "dckd": DCKD(),
    "dckd-at": DCKD(feature_method="at", fusion="mean", beta=2.0, gate=False),
    "dckd-classifier": DCKD(feature_method="fitnet", reading="classifier", freeze=True),
    "dckd-linear": DCKD(feature_method=None, reading="classifier", connector="linear", fusion="logit"),
    "mtkd_ssr": MTKDSSR(),
    "mtkd_ssr-c": MTKDSSR(teacher_exits="C", head="mirror", crd_mode="bidirectional", scd_mode="ickd"),
    "mtkd_ssr-b": MTKDSSR(teacher_exits="B", crd_mode="adjacent", scd_mode="cwd", srd_final=False),
    "mtkd_ssr-rel": MTKDSSR(scd_mode="se_kl", scd_relation=True, crd_mode="shallow_to_deep", decay=True),
    "byot": BYOT(),
    "byot-mirror": BYOT(alpha=0.5, head="mirror"),
    "aver": AverageTeachers(),
    "aver-probabilities": AverageTeachers(aim="probabilities"),
    "ebkd": EBKD(as_released=True),
    "ca_mkd": CAMKD(),
    "ca_mkd-released": CAMKD(as_released=True, detach_weights=False),
    "aekd": AEKD(),
    "aekd-unit": AEKD(cap=1.0, normalise_gradients=True),
    "gpac": GPAC(corrector_warmup=0),
    "gpac-all": GPAC(selection="all", corrector="softmax_weight", schedule="constant"),
    "gpac-top": GPAC(selection="top_m_mean", corrector="argmax_bonus", schedule="up", probe_pool=2),
    "gpac-one": GPAC(selection="one_for_all_stages", corrector="kl_weight", schedule="cosine"),
    "gpac-class": GPAC(selection="worst", granularity="class", corrector_warmup=0, breakpoints=(3, 6)),
    "gpac-sample": GPAC(selection="random", granularity="sample", corrector_warmup=0),
    "sum": KD() + AT(weight=500) + CMKD(),
    "sum-modules": SRRL() + FitNet(kd=0.5) + KD(temperature=2),
}
VARIANTS |= FEATURE_VARIANTS


def ready(variant: str, nets: str = "equal sizes") -> tuple[Method, TinyNet, TinyNet]:
    student, teacher = pair(nets)
    if "multi-teacher" in VARIANTS[variant].family:
        with_colleagues(teacher)
    return built(VARIANTS[variant].fresh(), student, teacher), student, teacher


def outcome(method: Method, step: Step, active: Sequence[str]) -> dict[str, Tensor]:
    """What `losses` gives, always with the same random numbers; `method` stays as it is."""
    copied = copy.deepcopy(method)
    torch.default_generator.manual_seed(17)
    return copied.losses(step, active)


def weighted(method: Method, values: dict[str, Tensor], epoch: int = 5) -> Tensor:
    return sum((method.terms[name].factor(epoch) * value for name, value in values.items()), torch.zeros(()))


RecordedStep = WatchedStep
