"""Exercises that check themselves, for the tutorials: functions, numbers, and predictions.

`check("kd", my_kd)` compares a function with kdlab's own and says which property breaks first; `task`
says what is asked, `hint` helps a little more each time, `solution` shows the code. `check_value` takes
numbers and choices. `predict` keeps what you expect before an experiment, `revisit` compares it with what
happened; `claim` says something about a run and lets the numbers of its seeds decide. `table()` lists the
exercises. No wrong answer raises.
"""

from kdlab.exercises.checking import check, check_value
from kdlab.exercises.claims import Claim, claim
from kdlab.exercises.helping import hint, names, solution, table, task
from kdlab.exercises.predictions import Outlook, Prediction, predict, revisit
from kdlab.exercises.properties import PROPERTIES
from kdlab.exercises.verdict import Text, Verdict

__all__ = [
    "PROPERTIES",
    "Claim",
    "Outlook",
    "Prediction",
    "Text",
    "Verdict",
    "check",
    "check_value",
    "claim",
    "hint",
    "names",
    "predict",
    "revisit",
    "solution",
    "table",
    "task",
]
