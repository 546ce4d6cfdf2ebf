"""One student in lockstep: network, method, optimiser, and their state as tensors."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from kdlab.errors import CheckpointError, StudyError
from kdlab.methods import Method, Step
from kdlab.models.features import StagedNet
from kdlab.training.recipes import Recipe

_NAN = float("nan")


@dataclass
class Best:
    """The epoch with the highest validation accuracy so far (the earliest of equals)."""

    epoch: int = 0
    val_accuracy: float = -1.0
    test_accuracy: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)


class StudentRun:
    """A student under training; the engine tells it nothing of the others."""

    def __init__(self, name: str, net: StagedNet, method: Method, recipe: Recipe) -> None:
        self.name = name
        self.net = net
        self.method = method
        self.parameters: list[nn.Parameter] = [
            p for module in (net, method) for p in module.parameters() if p.requires_grad
        ]
        self.optimizer: optim.Optimizer = recipe.make_optimizer(self.parameters)
        self.best = Best()
        self.active: list[str] = []
        self.columns = ["loss", "train_correct", "lr"]
        self.columns += [f"{kind}/{term}" for kind in ("term", "factor") for term in method.terms]

    def refresh(self, epoch: int) -> None:
        """Look again at switches, weights and schedules; to be called when they or the epoch change."""
        self.active = self.method.active(epoch)
        terms = self.method.terms.values()
        self.factors = {term.name: term.factor(epoch) for term in terms}

    def needs_teacher(self) -> bool:
        """Whether an active term reads a teacher."""
        return any(self.method.terms[name].needs_teacher for name in self.active)

    def train_step(self, images: Tensor, step: StepInputs, rate: float) -> Tensor:
        """One update. Returns (columns,) values on the device, in the order of `columns`, without
        the factors, which the host knows."""
        self.net.train()
        self.method.train()
        features = self.net.features(images)
        values = self.method.losses(step.of(features), self.active) if self.active else {}
        self._check(values)
        correct = (features.logits.detach().argmax(dim=1) == step.target).float().mean()
        nothing = correct.new_tensor(_NAN)
        total = None
        for name, value in values.items():
            part = value if self.factors[name] == 1.0 else value * self.factors[name]
            total = part if total is None else total + part
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if total is not None:
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            self.optimizer.step()
        raw = [values[name].detach() if name in values else nothing for name in self.method.terms]
        return torch.stack([correct.new_zeros(()) if total is None else total.detach(), correct, *raw])

    def _check(self, values: dict[str, Tensor]) -> None:
        if values.keys() != set(self.active):
            asked, got = sorted(self.active), sorted(values)
            raise StudyError(
                f"{type(self.method).__name__}.losses was asked for the terms {asked} and returned {got}; "
                "return exactly the terms in `active`."
            )

    # ---- state --------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything needed to go on exactly: tensors and plain values."""
        tensors = {f"net|{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"method|{k}": v for k, v in self.method.state_dict().items()}
        numbers: dict[str, Any] = {}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer|{index}|{key}"] = value
                elif value is not None:
                    numbers[f"{index}|{key}"] = value
        best = {"epoch": self.best.epoch, "val": self.best.val_accuracy, "test": self.best.test_accuracy}
        terms = {name: term.state() for name, term in self.method.terms.items()}
        return tensors, {"optimizer": numbers, "best": best, "terms": terms}

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Take back what `state` gave."""

        def part(kind: str) -> dict[str, Tensor]:
            return {k.split("|", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{kind}|")}

        try:
            self.net.load_state_dict(part("net"))
            self.method.load_state_dict(part("method"))
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint of student {self.name!r} does not fit its network or method; the code "
                f"of one of them has changed since ({str(error).splitlines()[0]})."
            ) from error
        slots: dict[int, dict[str, Any]] = {}
        for key, value in {**part("optimizer"), **info["optimizer"]}.items():
            index, name = key.split("|", 1)
            parameter = self.parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # the fused optimisers go through memory, so a slot must lie as its parameter does
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            slots.setdefault(int(index), {})[name] = value
        packed = self.optimizer.state_dict()
        packed["state"] = slots
        self.optimizer.load_state_dict(packed)
        self.method.apply_terms(info["terms"])
        best = info["best"]
        self.best = Best(best["epoch"], best["val"], best["test"])

    def keep_best(self, epoch: int, val_accuracy: float, test_accuracy: float) -> None:
        """Remember these weights if the validation accuracy is the highest so far."""
        if val_accuracy > self.best.val_accuracy:
            weights = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
            weights |= {f"method|{k}": v.detach().clone() for k, v in self.method.state_dict().items()}
            self.best = Best(epoch, val_accuracy, test_accuracy, weights)


@dataclass(frozen=True)
class StepInputs:
    """What all students share in one step."""

    target: Tensor
    index: Tensor
    epoch: int
    teachers: tuple[Any, ...]
    classifiers: tuple[nn.Module, ...]

    def of(self, features: Any) -> Step:
        """The step as one student's method sees it."""
        return Step(features, self.target, self.teachers, self.classifiers, self.index, self.epoch)


def make_students(
    first: StagedNet, methods: dict[str, Method], names: Collection[str], recipe: Recipe
) -> Sequence[StudentRun]:
    """Students that start from copies of the same network `first`."""
    return [StudentRun(name, copy.deepcopy(first), methods[name], recipe) for name in names]
