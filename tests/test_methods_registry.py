"""Names, cards and tables of methods, and methods from outside the package."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from methods_nets import built, make_step, pair
from torch import Tensor

from kdlab import methods
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.losses import cross_entropy
from kdlab.methods import AT, KD, Combined, Method, Step, Term, describe, make, register, registry

INDEX = {  # key: class, paper, family, status, terms, trained parts
    "ce": ("CE", "plain supervised", "logit", "paper", {"ce": 1}, []),
    "kd": (
        "KD",
        "Hinton, Vinyals, Dean, 2015, arXiv 1503.02531",
        "logit",
        "paper",
        {"ce": 0.1, "kd": 0.9},
        [],
    ),
    "at": ("AT", "ICLR 2017, arXiv 1612.03928", "feature", "code", {"ce": 1, "at": 1000, "kd": 0}, []),
    "fitnet": (
        "FitNet",
        "ICLR 2015, arXiv 1412.6550",
        "feature",
        "paper",
        {"ce": 1, "hint": 100, "kd": 0},
        ["regressor"],
    ),
    "srrl": (
        "SRRL",
        "ICLR 2021",
        "classifier-reuse",
        "code",
        {"ce": 1, "fm": 1, "sr": 1, "kd": 0},
        ["connector"],
    ),
    "vid": ("VID", "1904.05835", "feature", "paper", {"ce": 1, "vid": 1, "kd": 0}, ["means", "spreads"]),
    "nst": ("NST", "1707.01219", "feature", "paper", {"ce": 1, "nst": 50, "kd": 0}, []),
    "ofd": ("OFD", "1904.01866", "feature", "code", {"ce": 1, "ofd": 1, "kd": 0}, ["connectors"]),
    "reviewkd": ("ReviewKD", "2104.09044", "feature", "code", {"ce": 1, "review": 5, "kd": 0}, ["blocks"]),
    "ickd": ("ICKD", "2202.03680", "feature", "code", {"ce": 1, "ickd": 2.5, "kd": 0}, ["connectors"]),
    "cwd": ("CWD", "2011.13256", "feature", "code", {"ce": 1, "cwd": 3, "kd": 0}, ["connectors"]),
    "channel": (
        "ChannelDistillation",
        "2006.01683",
        "feature",
        "code",
        {"ce": 1, "channel": 6, "gkd": 0.1, "kd": 0},
        ["connectors"],
    ),
    "sp": ("SP", "1907.09682", "relation", "paper", {"ce": 1, "sp": 3000, "kd": 0}, []),
    "rkd": ("RKD", "1904.05068", "relation", "paper", {"ce": 1, "distance": 25, "angle": 50, "kd": 0}, []),
    "pkt": ("PKT", "1803.10837", "relation", "paper", {"ce": 1, "pkt": 30000, "kd": 0}, []),
    "cc": (
        "CC",
        "1904.01802",
        "relation",
        "paper",
        {"ce": 1, "cc": 0.02, "kd": 0},
        ["embed_student", "embed_teacher"],
    ),
    "crd": (
        "CRD",
        "1910.10699",
        "relation",
        "code",
        {"ce": 1, "crd": 0.8, "kd": 0},
        ["embed_student", "embed_teacher"],
    ),
    "simkd": (
        "SimKD",
        "2203.14001",
        "classifier-reuse",
        "code",
        {"ce": 0, "feature": 1, "kd": 0},
        ["projector"],
    ),
    "cmkd": (
        "CMKD",
        "Multimedia Systems 2024, doi 10.1007/s00530-024-01537-z",
        "classifier-reuse + logit",
        "recon",
        {"ce": 1, "pseudo": 1, "stage_kd": 0.5, "kd": 1, "feature": 15},
        ["projectors"],
    ),
    "mtkd_ssr": (
        "MTKDSSR",
        "IJCV 131 (2023) 1857-1874, doi 10.1007/s11263-023-01792-z",
        "feature + logit + self",
        "recon",
        {"ce": 1, "scd": 6, "srd": 1, "crd_review": 1, "aux_ce": 1},
        ["adapters", "exits", "teacher_exits"],
    ),
    "byot": (
        "BYOT",
        "1905.08094",
        "self",
        "paper",
        {"ce": 0.9, "exit_ce": 0.9, "exit_kd": 0.1, "hint": 1e-6},
        ["exits"],
    ),
    "aver": ("AverageTeachers", "3097983.3098135", "multi-teacher", "code", {"ce": 1, "kd": 1}, []),
    "ebkd": ("EBKD", "ICASSP40776.2020.9054698", "multi-teacher", "code", {"ce": 1, "kd": 1}, []),
    "ca_mkd": (
        "CAMKD",
        "2201.00007",
        "multi-teacher",
        "code",
        {"ce": 1, "kd": 1, "feature": 50},
        ["connectors"],
    ),
    "aekd": ("AEKD", "NeurIPS 2020", "multi-teacher", "code", {"ce": 1, "kd": 0.9}, ["connectors"]),
    "gpac": (
        "GPAC",
        "Neural Networks 164 (2023) 345-356, doi 10.1016/j.neunet.2023.04.015",
        "multi-teacher",
        "recon",
        {"ce": 1, "kd": 1, "attention": 1000},
        ["corrector"],
    ),
}


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Methods that a test registers are forgotten afterwards."""
    before = dict(registry._METHODS)
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


@pytest.mark.parametrize("key", INDEX)
def test_index(key: str) -> None:
    name, paper, family, status, terms, trained = INDEX[key]
    row = {row["key"]: row for row in methods.table()}[key]
    assert row["class"] == name == methods.get(key).__name__ and getattr(methods, name) is methods.get(key)
    assert paper in row["paper"] and row["family"] == family
    assert row["status"].startswith(methods.STATUS_TEXT[status])
    assert row["terms"] == terms and list(row["trained"]) == trained


def test_a_reconstruction_says_which_part_is_published() -> None:
    assert "published in code" in methods.status_text(methods.CMKD) and "ours" in methods.status_text(
        methods.CMKD
    )


def test_order_of_names() -> None:
    assert methods.names()[:2] == ["ce", "kd"]
    assert set(INDEX) <= set(methods.names())


# ---- make ----------------------------------------------------------------------------------------------


def test_make() -> None:
    method = KD()
    assert make(method) is method
    assert type(make(" KD ")) is KD and type(make(KD)) is KD
    assert make("kd+at").config() == make("kd + at").config() == (KD() + AT()).config()
    spec: dict[str, Any] = {"key": "kd", "params": {"temperature": 2}, "terms": {"kd": {"weight": 0.3}}}
    assert make(spec).terms["kd"].weight == 0.3
    assert make({"key": "kd"}).config() == KD().config()
    both = make({"key": "kd + at", "terms": {"at": {"schedule": "warmup:3"}}})
    assert isinstance(both, Combined) and str(both.term("at").schedule) == "warmup:3"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fitnett", "There is no method named 'fitnett'; did you mean 'fitnet'"),
        ("kd + ", "no method named ''"),
        ("", "A method is a name"),
        (3, "A method is a name"),
        ({"params": {}}, "needs a 'key'"),
        ({"key": "kd", "param": {}}, "did you mean 'params'"),
        (
            {"key": "kd", "params": {"temprature": 2}},
            "parameter of KD named 'temprature'; did you mean 'temperature'",
        ),
        ({"key": "kd", "terms": {"kdd": {"weight": 1}}}, "term of kd named 'kdd'"),
        ({"key": "kd", "terms": {"kd": {"weigth": 1}}}, "did you mean 'weight'"),
        ({"key": "kd + at", "params": {"weight": 2}}, "takes no params of its own"),
    ],
)
def test_make_refuses(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(spec)


# ---- a method of one's own ----------------------------------------------------------------------------

SOURCE = '''
from kdlab.losses import cross_entropy
from kdlab.methods import Method, Term, register

@register
class Confident(Method):
    """Cross-entropy minus a little of it."""

    key = "confident"
    paper = "nobody, never"

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(Term("ce", weight, ("student.logits", "target")))

    def losses(self, step, active):
        return {"ce": cross_entropy(step.student.logits, step.target)} if "ce" in active else {}
'''


def run_cell(module: str = "__main__") -> type[Method]:
    namespace = {"__name__": module}
    exec(SOURCE, namespace)
    return namespace["Confident"]  # type: ignore[return-value]


def test_a_method_from_outside() -> None:
    cls = run_cell("my_own_module")
    assert methods.names()[-1] == "confident"
    method = make({"key": "confident", "params": {"weight": 0.25}})
    assert type(method) is cls and method.title == "Confident"
    assert "nobody, never" in describe("confident")
    assert method.code() == "kdlab.methods.get('confident')(weight=0.25)"
    both = built(method + KD(), *pair())
    assert both.code() == "kdlab.methods.get('confident')(weight=0.25) + kdlab.methods.KD()"
    assert set(both.losses(make_step(*pair()), ["ce", "kd"])) == {"ce", "kd"}
    assert make(both.config()).config() == both.config()


def test_a_cell_may_be_run_again_but_a_key_cannot_be_taken() -> None:
    first, second = run_cell(), run_cell()
    assert first is not second and methods.get("confident") is second
    with pytest.raises(ConfigError, match=r"The key 'confident' is taken by __main__.Confident; give"):
        run_cell("elsewhere")
    assert methods.get("confident") is second


def make_class(**attributes: Any) -> type:
    def init(self: Method, weight: float = 1.0) -> None:
        Method.__init__(self, Term("ce", weight, ("student.logits", "target")))

    def losses(self: Method, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {"ce": cross_entropy(step.student.logits, step.target)}

    body = {"__init__": init, "losses": losses, "key": "mine", "__module__": __name__} | attributes
    return types.new_class("Mine", (Method,), exec_body=lambda ns: ns.update(body))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"key": ""}, "must be a lower-case name such as 'my_kd', not ''"),
        ({"key": "My KD"}, "lower-case name"),
        ({"status": "published"}, "must be one of"),
        ({"__init__": lambda self, weight: None}, "must give defaults to weight"),
    ],
)
def test_register_refuses(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register(make_class(**attributes))
    assert "mine" not in methods.names()


def test_register_needs_a_method_with_terms() -> None:
    with pytest.raises(ConfigError, match=r"subclasses of kdlab.methods.Method"):
        register(int)  # type: ignore[type-var]

    class Bare(Method):
        key = "bare"

    with pytest.raises(ConfigError, match="must define __init__"):
        register(Bare)


# ---- cards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", INDEX)
def test_cards_tell_what_is_declared(key: str) -> None:
    card = describe(key)
    method = make(key)
    assert methods.STATUS_TEXT[method.status] in card
    for term in method.terms.values():
        assert term.doc in card and f"reads {', '.join(term.taps)}" in card
    for name in method.trained:
        assert name in card
    for name in method.presets:
        assert name in card
    assert max(map(len, card.splitlines())) <= 120
    assert ">>>" not in card  # the terms are told, an example of them is not needed


@pytest.mark.parametrize("key", INDEX)
def test_diagrams_join_what_is_declared(key: str) -> None:
    from xml.etree import ElementTree

    card, method = describe(key), make(key)
    (diagram,) = card.diagrams
    assert diagram in card._repr_html_() and "<pre>" in card._repr_html_()
    root = ElementTree.fromstring(diagram)
    space = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f"{space}path")
    assert len(lines) == sum(len(term.taps) for term in method.terms.values())
    words = [text.text for text in root.findall(f"{space}text")]
    for term in method.terms.values():
        assert f"{term.name}  {term.weight:g}" in words
    taps = {tap for term in method.terms.values() for tap in term.taps}
    assert len(root.findall(f"{space}rect")) == len(taps) + len(method.terms)
    trained = [text for text in words if text and text.startswith("trained with the student")]
    assert len(trained) == bool(method.trained) and all(name in trained[0] for name in method.trained)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for box in root.findall(f"{space}rect"):
        assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
        assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


def test_card_of_a_sum() -> None:
    card = describe("kd + at")
    assert card.startswith("KD + AT (a sum of 2 methods)")
    assert "ce of AT (weight 1) is left out" in card
    assert "1503.02531" in card and "1612.03928" in card


def test_card_of_a_set_method_shows_its_settings() -> None:
    method = KD()
    method.term("kd").set(weight=0.25, schedule="warmup:9")
    assert "0.25 warmup:9" in describe(method)
    with pytest.raises(UnknownNameError):
        describe("cmdk")


@pytest.mark.parametrize("name", ["none", "Alone", "baseline"])
def test_what_others_call_training_alone_is_told_its_name(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"'{name}'; a student without a teacher is 'ce'"):
        registry.get(name)


def test_methods_load_without_heavy_packages() -> None:
    code = (
        "import sys, kdlab.methods, kdlab.losses;"
        "print([m for m in ('plotly', 'pandas', 'sklearn', 'torchvision', 'ipywidgets') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_method_of_ones_own_is_called_so() -> None:
    """It is neither published nor the reconstruction of anything; in a sum it says no more than it is."""

    class Mine(KD):
        key, title, status = "mine_", "Mine", Method.status

    assert methods.status_text(Mine) == "own method"
    assert (KD() + Mine()).status == "own" and (Mine() + methods.CMKD()).status == "recon"
