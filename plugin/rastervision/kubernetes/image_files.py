"""Finds the images of a project, for experiments as `rvk8s init` writes them."""

from __future__ import annotations

import os
from os.path import basename, join, splitext

from rvk8s.errors import InputError
from rvk8s.storage import local_files

_ENDS = (".tif", ".tiff")
#: Names of other files that a message shows.
_SHOWN = 5


def image_files(folder: str) -> dict[str, str]:
    """Name -> path or URI of each GeoTIFF in a folder: .tif and .tiff, in any case.

    Args:
        folder: on this machine, or of a file system that Raster Vision can list, such as S3.

    Raises:
        InputError: there is no such folder, or none in it; two have one name.
    """
    found: dict[str, str] = {}
    names = sorted(name for name in _names(folder) if not name.startswith("."))
    for name in names:
        stem, end = splitext(name)
        if end.lower() in _ENDS:
            if stem in found:
                what = f"{basename(found[stem])} and {name} would be one scene, {stem}"
                raise InputError(what, where=folder, fix="rename one of them, or move it away")
            found[stem] = join(folder, name)
    if not found:
        others = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        what = f"has no images; found {others or 'nothing'}"
        raise InputError(what, where=folder, fix="give GeoTIFFs: NAME.tif or NAME.tiff")
    return dict(sorted(found.items()))


def _names(folder: str) -> list[str]:
    if "://" not in folder:
        try:
            with local_files.errors(folder, "read"):
                return os.listdir(folder)
        except FileNotFoundError:
            fix = "set data_uri in rvk8s.yaml, or give -a data_uri FOLDER"
            raise InputError("there is no such folder", where=folder, fix=fix) from None
    from rastervision.pipeline.file_system.utils import list_paths

    return [basename(path) for path in list_paths(folder)]
