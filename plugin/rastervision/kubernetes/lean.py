"""Imports Raster Vision without what a stage does not use.

Raster Vision imports torch as soon as it is imported itself, and all plugins that are installed;
its PyTorch backend brings torchvision, albumentations and matplotlib along. For a stage that makes
chips or scores, that is most of its CPU time and three quarters of its memory until it begins,
for nothing (docs/benchmarks.md).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import rastervision

#: Raster Vision's own backend, in the order in which it is loaded.
_PYTORCH = ("rastervision.pytorch_learner", "rastervision.pytorch_backend")
#: Plugins that need neither these nor torch when they are imported: Raster Vision's and ours.
_KNOWN = {
    "aws_batch",
    "aws_s3",
    "core",
    "fastai_backend",
    "kubernetes",
    "pipeline",
    "pipeline_example_plugin1",
    "pipeline_example_plugin2",
    "pytorch_backend",
    "pytorch_learner",
}
#: What the names of our backends' types begin with.
_OURS = "fastai_"
#: Stages in which no model is.
_WITHOUT_MODEL = ("analyze", "chip", "eval")


def import_raster_vision(stage: str, config: Mapping[str, Any]) -> None:
    """Import rastervision.pipeline, before anything else imports it or torch.

    Args:
        config: the pipeline's, of which the backend is ours or not; {} where there is none yet.
    """
    if not can_do_without(config):
        import_module("rastervision.pipeline")
        return
    with _left_out(_PYTORCH, torch=stage in _WITHOUT_MODEL):
        from rastervision.pipeline import registry_
    # A config holds the versions of all plugins, and is upgraded by them.
    versions = {name: config.get("plugin_versions", {}).get(name) for name in _PYTORCH}
    missing = [name for name in _PYTORCH if name not in registry_.plugin_versions]
    if not all(versions.values()) or _types(config) - registry_.configs.keys():
        registry_.load_plugins(missing)
    for name in missing:
        registry_.plugin_versions.setdefault(name, versions[name])


def can_do_without(config: Mapping[str, Any]) -> bool:
    """Whether the backend is ours, and no plugin is installed that may need Raster Vision's own."""
    backend = config.get("backend") or {}
    ours = str(backend.get("type_hint", "")).startswith(_OURS)
    return ours and {plugin.name for plugin in iter_modules(rastervision.__path__)} <= _KNOWN


@contextmanager
def _left_out(plugins: Sequence[str], torch: bool) -> Iterator[None]:
    """While it lasts, plugins that are not imported yet are empty modules; the first `import torch`
    fails: Raster Vision's own, which is tried and may fail, comes before all others."""
    empty = {name: ModuleType(name) for name in plugins if name not in sys.modules}
    finder = _NoTorch()
    sys.modules.update(empty)
    if torch and "torch" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.leave()
        for name in empty:
            del sys.modules[name]


class _NoTorch:
    """A finder (importlib.abc.MetaPathFinder) that refuses torch once."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            self.leave()
            raise ModuleNotFoundError("torch is imported where it is used", name=name)

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]


def _types(value: Any) -> set[str]:
    """The type hints in a config."""
    if isinstance(value, list):
        return set().union(*(_types(item) for item in value))
    if isinstance(value, Mapping):
        found = {value["type_hint"]} if isinstance(value.get("type_hint"), str) else set()
        return found.union(*(_types(item) for item in value.values()))
    return set()
