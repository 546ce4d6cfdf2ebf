"""How the book looks; `make_book.py` puts its pages beside this file and calls Sphinx."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

import kdlab

project = "kdlab"
release = version = kdlab.__version__
html_title = "kdlab: what a loss does to a student"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"}
}
html_theme_options["dark_css_variables"] = {
    "color-brand-primary": "#56B4E9",
    "color-brand-content": "#56B4E9",
}
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_show_copyright = html_show_sourcelink = html_copy_source = False
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no server

nb_execution_mode = "off"  # make_book.py has run the notebooks
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else every page asks other servers for scripts
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "autosummary.import_cycle"]

default_role = "literal"  # `this` is code in docstrings
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_use_ivar = True
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note):")


def _markup(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`, formulas set in, and sections: made reStructuredText."""
    made: list[str] = []
    section = example = formula = False
    for line in lines:
        inside = line.startswith(" ")
        example = line.startswith(">>>") or (example and bool(line.strip()))
        if example or not line.strip():
            made.append(line)
            continue
        if not inside:
            if formula and made[-1].strip():
                made.append("")
            section, formula = bool(_SECTION.fullmatch(line)), False
        elif not section and not formula:
            made += [*([""] if made and made[-1].strip() else []), "::", ""]
            formula = True
        made.append(line if formula else _escaped(line))
    lines[:] = made


def _escaped(line: str) -> str:
    parts = re.split(r"(``?[^`]+``?)", line)
    parts[::2] = [re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", part) for part in parts[::2]]
    return "".join(parts)


def _skipped(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """What scikit-learn adds to every estimator is told there."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def formula(latex: str, display: str = "inline") -> str:
    """A formula as MathML; a command that the converter does not know is an error."""
    made = convert(latex, display=display)
    if "\\" in made:
        raise ExtensionError(f"A part of this formula cannot be written as MathML: {latex}")
    return made


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(formula(node.astext()))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math" role="math">{formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", _markup, priority=400)  # before napoleon reads the sections
    app.connect("autodoc-skip-member", _skipped)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
