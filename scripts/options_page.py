"""Writes docs/guide/options.md, the page of the fastai backend's options, from options.py."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rastervision.fastai_backend.options import (
    ClassifierOptions,
    DetectorOptions,
    Oversample,
    TrainSettings,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "options.md"

HEAD = """\
# Options of the fastai backend

This page is made from `plugin/rastervision/fastai_backend/options.py` by `make docs`; edit that.
Unknown keys and values out of bounds are refused before anything runs, with file, line and key.

```python
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig

FastaiSemanticSegmentationConfig(
    model={"backbone": "resnet50"},
    data={"dihedral": True},
    solver={"batch_sz": 16, "num_epochs": 20, "lr": 1e-3},
    predict={"tta": True},
)
```

That is semantic segmentation, a class for each pixel. `FastaiChipClassificationConfig`, a class for
each chip, and `FastaiObjectDetectionConfig`, boxes around objects, take the same but for `model`.
What is said of pixels below holds for chips where these have one class. Object detection has no
`solver.loss`, `class_weights`, `label_smoothing`, `ignore_class_index` and `predict.tta`.

Beside the four groups a config takes `sampling`: a `WindowSamplingConfig`, or one for each scene
id, of windows that training reads straight from the scenes. There is no chip stage then. Where
chips lie, how large they are and how scenes are predicted (stride, crop, batch) is said in Raster
Vision's own `chip_options` and `predict_options`. Beyond a scene's edges chips are black and their
labels the null class ([why](../decisions/2026-11-25-chips.md)). [options-2019.md](options-2019.md)
maps the options of the 2019 plugin to these.

Pixels whose label is `solver.ignore_class_index`, or a null class that is named `null` (Raster
Vision adds one where there is none), are left out of all scores; predicted elsewhere these classes
are errors. A null class of another name, such as `background`, is scored unless it is ignored.
"""

_TITLES: dict[type[BaseModel], str] = {
    ClassifierOptions: "model, for chip classification",
    DetectorOptions: "model, for object detection",
}
_BOUNDS = {
    "ge": "≥ {:g}",
    "gt": "> {:g}",
    "le": "≤ {:g}",
    "lt": "< {:g}",
    "multiple_of": "a multiple of {:g}",
    "min_length": "at least {:g} of them",
}


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name, field in TrainSettings.model_fields.items():
        groups = get_args(field.annotation) or (field.annotation,)  # each task has its model
        parts += [_section(_TITLES.get(group, name), group) for group in groups]
    parts.append(_section("data.oversample", Oversample))
    return "\n".join(parts)


def _section(title: str, group: type[BaseModel]) -> str:
    return "\n".join([f"## {title}", "", _first_line(group), "", *_table(group)]) + "\n"


def _first_line(group: type[BaseModel]) -> str:
    return (group.__doc__ or "").splitlines()[0]


def _table(group: type[BaseModel]) -> Iterator[str]:
    yield "| option | default | values | |"
    yield "|---|---|---|---|"
    for name, field in group.model_fields.items():
        default = "must be given" if field.is_required() else f"`{_shown(field.get_default())}`"
        yield f"| `{name}` | {default} | {_values(field)} | {field.description or ''} |"


def _values(field: FieldInfo) -> str:
    """`int, ≥ 1`: the types or words that an option takes, and its bounds."""
    kinds = list(_kinds(field.annotation))
    bounds = [
        words.format(getattr(rule, name))
        for rule in [*field.metadata, *_rules(field.annotation)]
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([" or ".join(kinds), *bounds])


def _kinds(annotation: Any) -> Iterator[str]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for part in args:
            yield from _kinds(part)
    elif origin is Literal:
        yield from (f"`{_shown(word)}`" for word in args)
    elif annotation is types.NoneType:
        yield "`None`"
    elif origin is list:
        yield f"list of {next(_kinds(args[0]))}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "dict, see below"
    else:
        yield annotation.__name__


def _rules(annotation: Any) -> Iterator[Any]:
    """The bounds of the types in a union, which pydantic leaves in them."""
    for part in get_args(annotation):
        yield from getattr(part, "__metadata__", ())


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
