"""The module of runs whose pipeline config is there already: `rastervision run kubernetes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: As the plan names it.
MODULE = "rastervision.kubernetes.given"


def get_config(runner: str, config_uri: str, commands: str = "") -> Any:
    """The pipeline config in a file; what configure takes instead of building one.

    Args:
        config_uri: what `rastervision run` has written; the pipeline's outputs go where it says.
        commands: those to run, "chip,train"; empty: all of the pipeline. configure reads it.
    """
    from rastervision.pipeline.config import build_config
    from rastervision.pipeline.file_system import file_to_json

    return build_config(file_to_json(config_uri))


def wanted(module: str, args: Mapping[str, Any]) -> list[str]:
    """The commands that a plan's arguments pick; empty: all."""
    return [name for name in str(args.get("commands", "")).split(",") if name] * (module == MODULE)
