"""The demonstration: a teacher, six students that differ only in their loss, three seeds, a report.

Real scans of digits that come with scikit-learn; the students see five labelled pictures of each
class, so that plain training is hard and what a teacher adds can be seen.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kdlab.data import load
from kdlab.methods import AT
from kdlab.training.progress import format_seconds
from kdlab.training.study import Study


def students(side: int) -> dict[str, Any]:
    """The students compared on pictures of `side` x `side` pixels.

    AT's published weight of 1000 belongs to 32 x 32 pictures: its mean over pixels makes it 16 times
    as strong on maps of a quarter of the side, so it is scaled with the number of pixels.
    """
    return {
        "alone": "ce",
        "KD": "kd",
        "AT": AT(weight=1000 * (side / 32) ** 2),
        "FitNet": "fitnet",
        "SRRL": "srrl",
        "CMKD": "cmkd",
    }


def demo_study(
    folder: str | Path | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    data: str = "digits",
    device: str = "auto",
) -> Study:
    """The study of the demonstration, not yet trained.

    Args:
        folder: where it lives; None makes a new one below `runs/`.
        seeds: how many.
        epochs: length; 40 by default.
        data: any other data set of the catalog runs the same study.
        device: "auto", "cpu", "cuda".
    """
    pictures = load(data)
    return Study(
        data=data,
        teacher="resnet20",
        student="resnet8",
        students=students(pictures.image_size[0]),
        epochs=epochs or 40,
        batch_size=32,
        labels_per_class=5,
        evaluate_every=4,
        probe_size=600,
        seeds=seeds,
        folder=folder,
        device=device,
    )


def run_demo(
    folder: str | Path | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    data: str = "digits",
    device: str = "auto",
    open_report: bool = False,
    progress: bool = True,
) -> Path:
    """Train the demonstration study and write its report; returns the report's path."""
    started = time.monotonic()
    study = demo_study(folder, seeds, epochs, data, device)
    if progress:
        print(f"{study.data.describe()}\nStudy folder: {study.folder}")
    study.fit(progress=progress)
    if study.state != "finished":  # stopped by hand; fit has said how to go on
        raise KeyboardInterrupt
    trained = time.monotonic()
    path = study.report()
    if progress:
        shown = study.table()[["network", "last", "last_sd", "best", "gain", "gain_sd"]]
        print(
            f"\nTest accuracy in percent, {len(study.seeds)} seed(s); "
            f"chance is {100 * study.data.chance:.1f}."
        )
        print(shown.to_string(index=False, float_format="{:.1f}".format, na_rep=""))
        print(
            f"\nTrained in {format_seconds(trained - started)}, report written in "
            f"{format_seconds(time.monotonic() - trained)}: {path}"
        )
    if open_report:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return path
