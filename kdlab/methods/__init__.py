"""Distillation methods: named terms that can be switched, weighed and scheduled, and the parts they train.

`make("kd + at")` or `KD() + AT(weight=500)` makes one; `table()` lists them, `describe("cmkd")` shows
one. A method of one's own is a subclass of `Method` with `@register` above it.
"""

# The order of import is the order of menus and tables.
from kdlab.methods.base import STATUS_TEXT, DataFacts, Method, Preparation, Step, Term, require_teachers  # noqa: I001
from kdlab.methods.ce_kd import CE, KD
from kdlab.methods.at import AT
from kdlab.methods.fitnet import FitNet
from kdlab.methods.srrl import SRRL
from kdlab.methods.cmkd import CMKD
from kdlab.methods.card import describe
from kdlab.methods.combine import Combined
from kdlab.methods.registry import get, make, names, register, status_text, table
from kdlab.methods.schedules import CosineDecay, Piecewise, Schedule, Warmup, parse_schedule

__all__ = [
    "AT",
    "CE",
    "CMKD",
    "KD",
    "SRRL",
    "STATUS_TEXT",
    "Combined",
    "CosineDecay",
    "DataFacts",
    "FitNet",
    "Method",
    "Piecewise",
    "Preparation",
    "Schedule",
    "Step",
    "Term",
    "Warmup",
    "describe",
    "get",
    "make",
    "names",
    "parse_schedule",
    "register",
    "require_teachers",
    "status_text",
    "table",
]
