"""Shows a run's scores. The client's side: it reads scores.json and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = ("precision", "recall", "f1", "iou")
_OVERALL = (
    ("accuracy", "accuracy"),
    ("meanIoU", "mean IoU"),
    ("macroF1", "macro F1"),
)
WEIGHTED = "pixel-weighted F1"
RASTER_VISION = "Raster Vision's “average F1”"


def print_scores(scores: dict[str, Any], console: Console) -> None:
    """Print the table of a run's scores: a line for each class, then the overall ones.

    Args:
        scores: what scores.json holds.
        console: where to print.
    """
    scenes = len(scores["scenes"])
    title = f"Scores of {scenes} validation scene{'s' * (scenes != 1)}"
    _print_table(title, scores, console)
    if "test" in scores:
        scenes = len(scores["test"]["scenes"])
        _print_table(f"Scores of {scenes} test scene{'s' * (scenes != 1)}", scores["test"], console)


def _print_table(title: str, scores: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", min_width=len(title))
    table.add_column("class", no_wrap=True)
    for name in ("precision", "recall", "F1", "IoU", "pixels"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in scores["classes"]:
        # Names are the user's: square brackets in them are no markup.
        name = entry["name"].replace("[", r"\[")
        parts = [_show(entry[key]) for key in _PARTS]
        table.add_row(name, *parts, f"{entry['support']:,}")
    console.print(table)
    overall = scores["overall"]
    for key, label in _OVERALL:
        console.print(f"  {_show(overall[key])}  {label}", highlight=False)
    for value, label in _weighted(overall):
        console.print(f"  {value}  {label}", highlight=False)
    console.print(f"  over {overall['pixels']:,} scored pixels", highlight=False)


def _weighted(overall: dict[str, Any]) -> list[tuple[str, str]]:
    """One line where both figures agree: they differ where some pixels' truth is not scored, or
    pixels lie outside of areas of interest."""
    ours, theirs = _show(overall["pixelWeightedF1"]), _show(overall.get("rasterVisionAverageF1"))
    if ours == theirs:
        return [(ours, f"{WEIGHTED} ({RASTER_VISION})")]
    return [
        (ours, WEIGHTED),
        (
            theirs,
            f"{RASTER_VISION}, which scores unlabelled and ignored pixels too, and those "
            "outside of areas of interest",
        ),
    ]


def _show(value: float | None) -> str:
    """Three digits; a score that is undefined (its class does not occur) is a dash."""
    return "–" if value is None else f"{value:.3f}"
