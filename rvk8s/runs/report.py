"""Shows a run's scores. The client's side: it reads scores.json and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = ("precision", "recall", "f1", "iou")
_OVERALL = (
    ("accuracy", "accuracy"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("meanIoU", "mean IoU"),
    ("macroF1", "macro F1"),
)
#: What the tasks count: one, several.
_UNITS = (("pixel", "pixels"), ("cell", "cells"), ("box", "boxes"))
RASTER_VISION = "Raster Vision's “average F1”"


def is_whole(scores: dict[str, Any]) -> bool:
    """Whether print_scores() can print what a scores.json holds."""
    overall, classes = scores.get("overall"), scores.get("classes")
    if not isinstance(overall, dict) or not isinstance(classes, list):
        return False
    unit = next((names for names in _UNITS if names[1] in overall), None)
    if unit is None or not isinstance(scores.get("scenes"), list | dict):
        return False
    counts = [overall[unit[1]]]
    shares = [overall.get(f"{unit[0]}WeightedF1", ""), overall.get("rasterVisionAverageF1")]
    shares += [overall.get(key) for key, _ in _OVERALL]
    for entry in classes:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return False
        counts.append(entry.get("support"))
        shares += [entry.get(key, "") for key in _PARTS]
    if not all(isinstance(count, int) for count in counts):
        return False
    if not all(share is None or isinstance(share, int | float) for share in shares):
        return False
    return "test" not in scores or (isinstance(scores["test"], dict) and is_whole(scores["test"]))


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
    overall = scores["overall"]
    unit, units = next(names for names in _UNITS if names[1] in overall)
    for name in ("precision", "recall", "F1", "IoU", units):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in scores["classes"]:
        # Names are the user's: square brackets in them are no markup.
        name = entry["name"].replace("[", r"\[")
        parts = [_show(entry[key]) for key in _PARTS]
        table.add_row(name, *parts, f"{entry['support']:,}")
    console.print(table)
    for key, label in _OVERALL:
        if key in overall:
            console.print(f"  {_show(overall[key])}  {label}", highlight=False)
    for value, label in _weighted(overall, unit):
        console.print(f"  {value}  {label}", highlight=False)
    console.print(f"  over {overall[units]:,} scored {units}", highlight=False)
    if unit != "box" and (nothing := _says_nothing(scores["classes"], units)):
        console.print(f"  {nothing}", style="bold red", highlight=False, markup=False)


def _says_nothing(classes: list[dict[str, Any]], units: str) -> str | None:
    """Why scores are worth nothing, however good they look; None where they may be right."""
    true = [entry["name"] for entry in classes if entry["support"]]
    # A precision is undefined where nothing is predicted as its class.
    predicted = [entry["name"] for entry in classes if entry["precision"] is not None]
    if len(predicted) == 1 and true:
        return (
            f"All {units} are predicted as {predicted[0]}: the model has learnt nothing else. "
            "Look at the pictures, the labels and the learning rate."
        )
    if len(true) == 1:
        return f"All scored {units} are {true[0]}: these scores say nothing of other classes."
    return None


def _weighted(overall: dict[str, Any], unit: str) -> list[tuple[str, str]]:
    """One line where both figures agree: they differ where some pixels' truth is not scored, or
    pixels lie outside of areas of interest."""
    ours = _show(overall[f"{unit}WeightedF1"])
    theirs, weighted = _show(overall.get("rasterVisionAverageF1")), f"{unit}-weighted F1"
    if ours == theirs or theirs == "–":
        return [(ours, f"{weighted} ({RASTER_VISION})")]
    if unit == "box":
        return [(ours, weighted), (theirs, RASTER_VISION)]
    also = ", and those outside of areas of interest" if unit == "pixel" else ""
    return [
        (ours, weighted),
        (theirs, f"{RASTER_VISION}, which scores unlabelled and ignored {unit}s too{also}"),
    ]


def _show(value: float | None) -> str:
    """Three digits; a score that is undefined (its class does not occur) is a dash."""
    return "–" if value is None else f"{value:.3f}"
