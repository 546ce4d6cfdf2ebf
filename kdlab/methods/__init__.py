"""Distillation methods: named terms that can be switched, weighed and scheduled, and the parts they train.

`make("kd + at")` or `KD() + AT(weight=500)` makes one; `table()` lists them, `describe("cmkd")` shows
one. A method of one's own is a subclass of `Method` with `@register` above it.
"""

# The order of import is the order of menus and tables.
from kdlab.methods.base import STATUS_TEXT, DataFacts, Method, Preparation, Step, Term, require_teachers  # noqa: I001
from kdlab.methods.ce_kd import CE, KD
from kdlab.methods.dkd import DKD
from kdlab.methods.nkd import NKD
from kdlab.methods.dist import DIST
from kdlab.methods.ttm import TTM, WTTM
from kdlab.methods.ls_kd import LSKD
from kdlab.methods.mlkd import MLKD
from kdlab.methods.ctkd import CTKD
from kdlab.methods.skd import SKD
from kdlab.methods.dckd import DCKD
from kdlab.methods.at import AT
from kdlab.methods.fitnet import FitNet
from kdlab.methods.vid import VID
from kdlab.methods.nst import NST
from kdlab.methods.ofd import OFD
from kdlab.methods.reviewkd import ReviewKD
from kdlab.methods.ickd import ICKD
from kdlab.methods.cwd import CWD
from kdlab.methods.channel import ChannelDistillation
from kdlab.methods.sp import SP
from kdlab.methods.rkd import RKD
from kdlab.methods.pkt import PKT
from kdlab.methods.cc import CC
from kdlab.methods.crd import CRD
from kdlab.methods.srrl import SRRL
from kdlab.methods.simkd import SimKD
from kdlab.methods.cmkd import CMKD
from kdlab.methods.mtkd_ssr import MTKDSSR
from kdlab.methods.byot import BYOT
from kdlab.methods.aver import AverageTeachers
from kdlab.methods.ebkd import EBKD
from kdlab.methods.ca_mkd import CAMKD
from kdlab.methods.aekd import AEKD
from kdlab.methods.gpac import GPAC
from kdlab.methods.card import describe
from kdlab.methods.combine import Combined
from kdlab.methods.conformance import Report, check
from kdlab.methods.literature import published
from kdlab.methods.registry import get, make, names, register, status_text, table
from kdlab.methods.schedules import CosineDecay, Drops, Levels, Piecewise, Schedule, Warmup, parse_schedule

__all__ = [
    "AEKD",
    "AT",
    "BYOT",
    "CAMKD",
    "CC",
    "CE",
    "CMKD",
    "CRD",
    "CTKD",
    "CWD",
    "DCKD",
    "DIST",
    "DKD",
    "EBKD",
    "GPAC",
    "ICKD",
    "KD",
    "LSKD",
    "MLKD",
    "MTKDSSR",
    "NKD",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SKD",
    "SP",
    "SRRL",
    "STATUS_TEXT",
    "TTM",
    "VID",
    "WTTM",
    "AverageTeachers",
    "ChannelDistillation",
    "Combined",
    "CosineDecay",
    "DataFacts",
    "Drops",
    "FitNet",
    "Levels",
    "Method",
    "Piecewise",
    "Preparation",
    "Report",
    "ReviewKD",
    "Schedule",
    "SimKD",
    "Step",
    "Term",
    "Warmup",
    "check",
    "describe",
    "get",
    "make",
    "names",
    "parse_schedule",
    "published",
    "register",
    "require_teachers",
    "status_text",
    "table",
]
