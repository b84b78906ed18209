"""An experiment as rvk8s.yaml describes it: what plans are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rvk8s.project.signature import Signature


@dataclass(frozen=True)
class Experiment:
    """An experiment, or one of its variants, with everything that applies to it merged.

    Attributes:
        name: the experiment's name, for a variant experiment-variant.
        module: a .py file relative to project_dir, or a dotted name.
        signature: what its get_config takes.
        where: file, line and key, for errors.
        project_dir: absolute path of the folder of rvk8s.yaml.
        args: arguments of get_config with the types that they have in the file.
        splits, retries, deadline_seconds: by stage.
        gpus: for training, in total; None where the file does not say.
        root_uri: absolute; None where the file has none.
        image: the container image; None where the file has none.
        values: values of the chart for runs on a cluster.
        variant_of: the experiment of which this is a variant.
    """

    name: str
    module: str
    signature: Signature
    where: str
    project_dir: str
    args: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    gpus: int | None = None
    retries: Mapping[str, int] = field(default_factory=dict)
    deadline_seconds: Mapping[str, int] = field(default_factory=dict)
    root_uri: str | None = None
    image: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    variant_of: str | None = None
