"""Which wrong classes a network thinks of: teacher, students and the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.theme import shortened
from kdlab.probes.logits import LogitDecomposition

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_TICKS = 20


def dark_knowledge(
    result: LogitDecomposition,
    *,
    difference: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw, for the pictures of each class (down), the mean probabilities of the other classes (across).

    The true class is taken out and the rest sums to 1 in every row: what NCKD compares. Above, teacher
    and students on one colour scale; below, each student minus the teacher, on a scale of its own.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        difference: also draw the differences.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: two classes, where nothing is left beside the true one.

    >>> fig = kdlab.plots.dark_knowledge(kdlab.probes.logit_decomposition(study))
    >>> [note.text for note in fig.layout.annotations]
    ['resnet8 (teacher)', 'alone', 'KD', 'alone − teacher', 'KD − teacher']
    """
    from plotly.subplots import make_subplots

    teacher, students = result.confusion()
    if teacher.shape[0] < 3:
        raise ConfigError("With two classes there is one other class, so that nothing can be compared.")
    np.fill_diagonal(teacher, np.nan)  # confusion() gives arrays of its own
    for table in students:
        np.fill_diagonal(table, np.nan)
    names = [*result.class_names[: len(teacher)], *map(str, range(len(result.class_names), len(teacher)))]
    columns = 1 + len(result.students)
    rows = 2 if difference else 1
    heads = [f"{result.teacher} (teacher)", *result.students]
    fits = max(7, 92 // columns)
    titles = [shortened(head, fits) for head in heads]
    if difference:
        titles += ["", *(f"{shortened(name, max(fits - 9, 6))} − teacher" for name in result.students)]
    fig = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.025, vertical_spacing=0.2)
    for column, (head, table) in enumerate(zip(heads, (teacher, *students), strict=True), 1):
        fig.add_trace(_map(table, names, head, "coloraxis"), row=1, col=column)
        if difference and column > 1:
            told = f"{head} − teacher"
            fig.add_trace(_map(table - teacher, names, told, "coloraxis2"), row=2, col=column)
    few = len(names) <= _MOST_TICKS
    small = dict(size=10 if columns > 3 else 12)
    upright = -90 if max(map(len, names)) > 1 else 0
    fig.update_xaxes(showgrid=False, showticklabels=False, ticks="", constrain="domain")
    fig.update_yaxes(autorange="reversed", showgrid=False, showticklabels=False, ticks="", constrain="domain")
    for number, axis in enumerate(fig.select_yaxes()):
        axis.update(scaleanchor=f"x{number + 1 if number else ''}")
        first = number % columns == (1 if difference and number >= columns else 0)
        if few and first:
            axis.update(tickvals=names, ticktext=[shortened(n, 11) for n in names], showticklabels=True)
            axis.tickfont = small
    for number, axis in enumerate(fig.select_xaxes()):
        if few and (number >= columns or not difference or number == 0):
            axis.update(
                tickvals=names,
                ticktext=[shortened(n, 8) for n in names],
                showticklabels=True,
                tickangle=upright,
            )
            axis.tickfont = small
    fig.update_xaxes(title="other class", row=rows)
    fig.update_xaxes(title="other class", row=1, col=1)
    fig.update_yaxes(title="true class", row=1, col=1)
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    if difference:  # nothing stands below the teacher
        for axis in (fig.layout[f"xaxis{columns + 1}"], fig.layout[f"yaxis{columns + 1}"]):
            axis.update(visible=False)
    gaps = [students - teacher]
    reach = max(float(np.nanmax(np.abs(gaps[0]))), 1e-9)
    bar: dict[str, Any] = dict(thickness=12, tickfont=dict(size=12), len=0.46 if difference else 0.9)
    fig.update_layout(
        coloraxis=dict(
            colorscale=theme.SEQUENTIAL,
            cmin=0,
            colorbar=dict(**bar, y=0.78 if difference else 0.5, title=dict(text="share", font=dict(size=12))),
        )
    )
    if difference:
        fig.update_layout(
            coloraxis2=dict(
                colorscale=[list(stop) for stop in theme.DIVERGING],
                cmin=-reach,
                cmax=reach,
                colorbar=dict(**bar, y=0.22, title=dict(text="difference", font=dict(size=12))),
            )
        )
    cell = min(300, (theme.WIDTH - 190) // columns)
    theme.small_titles(fig)
    return theme.apply(
        fig,
        summary=_summary(result, teacher, students, names),
        title=title,
        height=(cell + 60) * rows + 70,
        legend=False,
        dark=dark,
    )


def _map(table: np.ndarray, names: list[str], head: str, axis: str) -> Any:
    import plotly.graph_objects as go

    return go.Heatmap(
        x=names,
        y=names,
        z=np.round(table, 4),
        coloraxis=axis,
        hovertemplate=f"{head}, pictures of %{{y}}: %{{x}} %{{z:.3f}}<extra></extra>",
    )


def _summary(result: LogitDecomposition, teacher: np.ndarray, students: np.ndarray, names: list[str]) -> str:
    row, column = np.unravel_index(int(np.nanargmax(teacher)), teacher.shape)
    gaps = []
    for name, table in zip(result.students, students, strict=True):
        far = 0.5 * np.nansum(np.abs(table - teacher), axis=1)[np.isfinite(teacher).any(axis=1)]
        gaps.append(f"{name} {far.mean():.2f}")
    return (
        f"Mean probabilities of the wrong classes at temperature {result.temperature:g}, the true class "
        f"taken out. The teacher's strongest association is {names[column]} for pictures of {names[row]} "
        f"({teacher[row, column]:.2f}; even would be {1 / (len(names) - 1):.2f}). Distance of the class "
        f"means to the teacher's (total variation, 0 is equal, 1 is disjoint): {', '.join(gaps)}."
    )
