"""What `kdlab.methods.check` looks at, one function for each property.

Each is given a `Bench`, and raises `Broken` with a sentence where the property does not hold. Its
docstring is what the report says the property asks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.methods.base import STATUS_TEXT, Step
from kdlab.methods.practice import Bench
from kdlab.methods.watching import WatchedStep


class Broken(Exception):
    """A property does not hold; the message says what was seen."""


def _demand(holds: Any, message: str) -> None:
    if not holds:
        raise Broken(message)


def declaration(bench: Bench) -> None:
    """says what it is, and can be recorded and made again."""
    method = bench.method
    _demand(method.key and method.title, "key or title is empty")
    _demand(method.status in STATUS_TEXT, f"status {method.status!r} is none of {list(STATUS_TEXT)}")
    _demand(method.terms, "it has no terms")
    config = json.loads(json.dumps(method.config()))
    again = method.fresh().config()
    _demand(again == config, f"fresh() gives other settings: {again} instead of {config}")


def shapes(bench: Bench) -> None:
    """each active term, and no other, gives one finite number in single precision."""
    names = list(bench.method.terms)
    _demand(bench.losses([]) == {}, "losses were returned though no term is active")
    whole = bench.losses(names)
    _only(whole, names)
    for name, value in whole.items():
        _demand(isinstance(value, Tensor) and value.shape == (), f"{name} is not a tensor of shape ()")
        _demand(value.dtype in (torch.float32, torch.float64), f"{name} is {value.dtype}")
        _demand(value.isfinite(), f"{name} is {value.item()}")
    for name in names:
        alone = bench.losses([name])
        _only(alone, [name])
        _demand(
            torch.allclose(alone[name], whole[name], rtol=1e-4, atol=1e-6),
            f"{name} is {alone[name].item():.6g} alone and {whole[name].item():.6g} with the others",
        )


def _only(values: Mapping[str, Tensor], names: Sequence[str]) -> None:
    _demand(set(values) == set(names), f"asked for {sorted(names)}, returned {sorted(values)}")


def taps(bench: Bench) -> None:
    """terms read all that they declare, and nothing else."""
    declared = {tap for term in bench.method.terms.values() for tap in term.taps}
    seen = WatchedStep(bench.step())
    bench.losses(list(bench.method.terms), seen)
    _demand(seen.read <= declared, f"reads {_list(seen.read - declared)}, which no term declares")
    _demand(declared <= seen.read, f"declares {_list(declared - seen.read)} and does not read it")


def disabled(bench: Bench) -> None:
    """what only a disabled term needs is neither read nor run."""
    work = {name: _work(bench, [name]) for name in bench.method.terms}
    for name, (read, _) in work.items():
        extra = read - set(bench.method.terms[name].taps)
        _demand(not extra, f"with {name} alone it reads {_list(extra)}, which {name} does not declare")
    for name, (_, idle) in work.items():
        _demand(not idle, f"with {name} alone it runs {_list(idle)}, which {name} does not train")


def _work(bench: Bench, active: Sequence[str]) -> tuple[set[str], set[str]]:
    """The taps read for these terms, and the trainable modules run although no gradient reaches them."""
    ran: set[str] = set()
    seen = WatchedStep(bench.step())

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.add(name)

    leaves = [(n, m) for n, m in bench.method.named_modules() if n and not list(m.children())]
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        values = bench.losses(active, seen)
    finally:
        for hook in hooks:
            hook.remove()
    if parts := [value for value in values.values() if value.requires_grad]:
        torch.stack(parts).sum().backward()
    trainable = {n: [p for p in m.parameters() if p.requires_grad] for n, m in leaves}
    return seen.read, {n for n in ran if trainable[n] and all(p.grad is None for p in trainable[n])}


def gradients(bench: Bench) -> None:
    """gradient reaches the student and the method's own parts, and never a teacher."""
    names = list(bench.method.terms)
    values = bench.losses(names)
    for name, value in values.items():
        _demand(value.requires_grad, f"{name} gives no gradient")
    torch.stack(list(values.values())).sum().backward()
    theirs = [p for teacher in bench.teachers for p in teacher.parameters()]
    _demand(not any(p.requires_grad for p in theirs), "a teacher's parameters ask for gradient")
    _demand(all(p.grad is None for p in theirs), "gradient reached a teacher")
    grouped = [p for group in bench.method.parameter_groups() for p in group["params"]]
    others = {id(p) for p in [*theirs, *bench.student.parameters()]}
    _demand(not any(id(p) in others for p in grouped), "it trains parameters of the teacher or the student")
    _demand(len({id(p) for p in grouped}) == len(grouped), "a parameter is in two of its parameter groups")
    own = {id(p): part for part, p in bench.method.named_parameters()}
    for parameter in grouped:
        name = own.get(id(parameter), "")
        _demand(name, "a parameter of its groups is not registered with it, and would not be saved")
        _demand(parameter.grad is not None, f"no term gives gradient to its own {name}")
        _demand(parameter.grad.isfinite().all(), f"the gradient of its own {name} is not finite")
    reached = [p.grad for p in bench.student.parameters() if p.grad is not None]
    _demand(any(g.abs().sum() > 0 for g in reached), "no gradient reaches the student")
    _demand(all(g.isfinite().all() for g in reached), "the student's gradient is not finite")


def toggling(bench: Bench) -> None:
    """switching a term off is the same as giving it weight 0."""
    names = list(bench.method.terms)
    weights = {name: bench.method.terms[name].weight or 1.0 for name in names}
    for name in names:
        rest = [other for other in names if other != name]
        off = _gradient(bench, rest, weights)
        zero = _gradient(bench, names, weights | {name: 0.0})
        for part, gradient in off.items():
            same = torch.allclose(
                gradient, zero[part], rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1)
            )
            _demand(same, f"{name} off and {name} at weight 0 give {part} different gradients")


def _gradient(bench: Bench, active: Sequence[str], weights: Mapping[str, float]) -> dict[str, Tensor]:
    parameters = {f"student {n}": p for n, p in bench.student.named_parameters()}
    parameters |= {f"its own {n}": p for n, p in bench.method.named_parameters()}
    values = bench.losses(active)
    if parts := [weights[name] * value for name, value in values.items() if value.requires_grad]:
        torch.stack(parts).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in parameters.items()}


def modes(bench: Bench) -> None:
    """training and evaluation leave modes, teachers and what they were given as they were."""
    nets = [bench.student, *bench.teachers]
    step = bench.step()
    given = [t.detach().clone() for t in _tensors(step)]
    frozen = [copy.deepcopy(teacher.state_dict()) for teacher in bench.teachers]
    before = _modes([*nets, bench.method.train()])
    bench.losses(list(bench.method.terms), step)
    _demand(_modes([*nets, bench.method]) == before, "losses changed a train or eval mode")
    _same(step, given, "losses")
    with torch.no_grad():
        step = bench.step()
    given = [t.clone() for t in _tensors(step)]
    for training in (True, False):
        before = _modes([*nets, bench.method.train(training)])
        state = copy.deepcopy(bench.method.state_dict())
        outputs = {"predict": bench.method.predict(step), **bench.method.side_logits(step)}
        for name, logits in outputs.items():
            good = logits.shape == (bench.batch, bench.spec.num_classes) and not logits.requires_grad
            _demand(good, f"{name} gives no detached (batch, classes) logits")
        projected = bench.method.project(step)
        _demand(projected is None or projected.ndim == 2, "project gives no (batch, width) tensor")
        _demand(_modes([*nets, bench.method]) == before, "evaluation changed a train or eval mode")
        _demand(_equal(bench.method.state_dict(), state), "evaluation changed the method's state")
    _same(step, given, "evaluation")
    bench.method.train()
    for teacher, state in zip(bench.teachers, frozen):
        _demand(_equal(teacher.state_dict(), state), "a teacher's weights or buffers changed")


def autocast(bench: Bench) -> None:
    """under autocast to bfloat16 values stay in single precision, and finite with their gradients."""
    with torch.autocast("cpu", torch.bfloat16):
        values = bench.losses(list(bench.method.terms))
    _finite(bench, values, "under autocast")


def large_logits(bench: Bench) -> None:
    """with logits of +-200 values and gradients are finite."""

    def large(step: Step) -> Step:
        def scaled(features: Any) -> Any:
            top = features.logits.detach().abs().amax(1, keepdim=True).clamp_min(1e-6)
            return replace(features, logits=features.logits / top * 200)

        return replace(step, student=scaled(step.student), teachers=tuple(map(scaled, step.teachers)))

    step = bench.step()
    second = None if step.second is None else large(step.second)
    _finite(bench, bench.losses(list(bench.method.terms), replace(large(step), second=second)), "at +-200")


def _finite(bench: Bench, values: Mapping[str, Tensor], where: str) -> None:
    for name, value in values.items():
        _demand(value.dtype in (torch.float32, torch.float64), f"{name} is {value.dtype} {where}")
        _demand(value.isfinite(), f"{name} is {value.item()} {where}")
    torch.stack(list(values.values())).sum().backward()
    for parameter in (*bench.student.parameters(), *bench.method.parameters()):
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        _demand(finite, f"a gradient is not finite {where}")


def state(bench: Bench) -> None:
    """its state dictionary holds all that it needs to go on exactly."""
    names = list(bench.method.terms)
    bench.losses(names)  # moves banks and running statistics
    saved = copy.deepcopy(bench.method.state_dict())
    ongoing = bench.losses(names, method=bench.method)
    other = bench.ready(seed=99)
    _demand(list(other.state_dict()) == list(saved), "a second copy has other keys")
    other.load_state_dict(saved)
    resumed = bench.losses(names, method=other)
    for name in names:
        same = torch.allclose(ongoing[name], resumed[name], rtol=1e-5, atol=1e-7)
        _demand(same, f"{name} is {ongoing[name].item():.6g}, and {resumed[name].item():.6g} when resumed")


PROPERTIES: dict[str, Callable[[Bench], None]] = {
    "shapes": shapes,
    "taps": taps,
    "disabled terms": disabled,
    "gradient reach": gradients,
    "toggling": toggling,
    "modes": modes,
    "autocast": autocast,
    "large logits": large_logits,
    "state round trip": state,
}
"""Name in the report -> the property."""


# ---- helpers --------------------------------------------------------------------------------------------


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def _modes(modules: Sequence[nn.Module]) -> list[Any]:
    switches = [part.training for module in modules for part in module.modules()]
    return [*switches, *(p.requires_grad for module in modules for p in module.parameters())]


def _tensors(step: Step) -> list[Tensor]:
    """Everything the step shows, in a fixed order."""
    seen = [step.target]
    for features in (step.student, *step.teachers):
        maps = (*features.stages, *(features.preacts or ()), features.stem, features.final)
        seen += [t for t in (features.logits, features.embedding, *maps) if t is not None]
    return seen


def _same(step: Step, before: Sequence[Tensor], who: str) -> None:
    same = all(torch.equal(a.detach(), b) for a, b in zip(_tensors(step), before))
    _demand(same, f"{who} changed a tensor of the step in place")


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dictionaries are the same; a value that is not known yet may be NaN in both."""

    def same(one: Tensor, other: Tensor) -> bool:
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())

    return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
