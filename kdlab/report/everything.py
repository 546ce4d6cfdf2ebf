"""Everything a study shows as one zip file: tables, results of probes, figures, and the code for them."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlab import plots, probes
from kdlab.errors import KDLabError, require_study
from kdlab.files import place_for, whole_file
from kdlab.probes.progress import Cancelled, measurement, parts, steps
from kdlab.probes.words import call

# What is measured, and how it is drawn: probe -> (its options, plots with their options).
PARTS: dict[str, tuple[dict[str, Any], tuple[tuple[str, dict[str, Any]], ...]]] = {
    "final_accuracies": ({}, (("final_accuracies", {}),)),
    "beside_published": ({}, (("beside_published", {}),)),
    "learning_curves": ({}, (("curves", {}),)),
    "linear_probe": (
        {"probe": "ridge", "control": True, "purity": True},
        (("probe_depth", {}), ("probe_epochs", {}), ("probe_maps", {"value": "purity"})),
    ),
    "factor_probe": (
        {"probe": "ridge", "epochs": "all"},
        (("factors", {}), ("factors", {"value": "difference"})),
    ),
    "similarity": ({}, (("similarity", {}), ("similarity_epochs", {}))),
    "geometry": ({}, (("geometry", {"by": "epoch"}), ("geometry", {"by": "layer"}))),
    "calibration": ({}, (("reliability", {}), ("calibration", {}))),
    "fidelity": ({}, (("fidelity", {}), ("fidelity_epochs", {}))),
    "logit_decomposition": ({}, (("logit_parts", {}), ("logit_classes", {}))),
    "attention_maps": ({}, (("attention", {}),)),
}
_README = """\
{name}: {state} study of {data}

{files}
{told}
Made with kdlab {version}.
"""
_FILES = {  # those that are there are told
    "table.csv": "accuracies in percent, a row a network",
    "history.csv": "what was recorded, a row for each seed, epoch and student",
    "study.py": "makes this very study again",
    "results.py": "measures and draws what is here",
    "figures.html": "all figures with what they show, in any browser, without a network",
    "results/": "each result as a table (.csv) and whole (.npz, for kdlab.probes.load_result)",
}


@measurement
def save_everything(study: Any, path: str | Path | None = None) -> Path:
    """Measure a study with the quick probes, and write numbers, figures and code into one zip file.

    What cannot be measured of this study is left out, and README.txt in the file says why.

    Args:
        study: a `kdlab.Study`, running, finished or loaded.
        path: of the file, which ends with .zip, or of an existing folder for it; `everything.zip` in the
            study's folder if not given.

    Returns:
        The path written; the file is whole or not there.

    Raises:
        ConfigError: no study, a path of another kind, or nothing can be written there.
        OSError: the disk is full.

    >>> import zipfile
    >>> new = kdlab.Study("digits", students={"alone": "ce"}, folder="runs/new")
    >>> zipfile.ZipFile(kdlab.report.save_everything(new)).namelist()  # README.txt says why
    ['README.txt', 'history.csv', 'results.py', 'study.py', 'table.csv']
    """
    require_study(study)
    target = place_for(study.folder / "everything.zip" if path is None else path, "everything.zip")
    with tempfile.TemporaryDirectory() as folder:
        written = _write(study, Path(folder))
        with (
            whole_file(target) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for file in written:
                archive.write(file, file.relative_to(folder))
    return target


def _write(study: Any, folder: Path) -> list[Path]:
    """The files, in the order of the archive."""
    import kdlab

    now = parts({"measuring": 10, "drawing": 1})
    figures: list[Any] = []
    told: list[str] = []
    lines = ["import kdlab", "", f"study = kdlab.load_study({str(study.folder)!r})"]
    results = folder / "results"
    with now("measuring"):
        for probe in steps(list(PARTS), "{}"):
            options, drawn = PARTS[probe]
            try:
                result = getattr(probes, probe)(study, **options)
            except Cancelled:
                raise
            except KDLabError as error:
                told.append(f"{probe} is not here. {error}")
                continue
            plots.to_csv(result, results / f"{probe}.csv")
            result.save(results / f"{probe}.npz")
            told.append(f"{probe}: {result.summary}")
            lines += ["", f"{probe} = {call(f'kdlab.probes.{probe}', 'study', **options)}"]
            for number, (plot, fig, code) in enumerate(_draw(probe, result, drawn)):
                figures.append(fig)
                name = f"{plot}{f'-{number + 1}' if number else ''}.html"
                lines.append(call("kdlab.plots.save_figure", code, repr(name)))
    with now("drawing"):
        if figures:
            plots.to_html(figures, folder / "figures.html", title=f"{study.folder.name}: everything")
        study.table().to_csv(folder / "table.csv", index=False)
        study.history().to_csv(folder / "history.csv", index=False)
        (folder / "study.py").write_text(study.code(), encoding="utf-8")
        (folder / "results.py").write_text("\n".join([*lines, ""]), encoding="utf-8")
        about = _README.format(
            name=study.folder.name,
            state=study.state,
            data=study.data.name,
            files="".join(f"{name:15}{what}\n" for name, what in _FILES.items() if (folder / name).exists()),
            told="\n\n".join(told) + "\n",
            version=kdlab.__version__,
        )
        (folder / "README.txt").write_text(about, encoding="utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _draw(
    probe: str, result: Any, drawn: tuple[tuple[str, dict[str, Any]], ...]
) -> Iterator[tuple[str, Any, str]]:
    """Name, figure and code of each plot that the result allows."""
    for plot, options in drawn:
        try:
            fig = getattr(plots, plot)(result, **options, title=plot.replace("_", " ").capitalize())
        except KDLabError:  # such as lines over a single epoch
            continue
        yield plot, fig, call(f"kdlab.plots.{plot}", probe, **options)
