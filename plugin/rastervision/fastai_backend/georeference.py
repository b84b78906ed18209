"""Imagery without a coordinate reference system: what Raster Vision 0.31 needs to save predictions.

For a file with neither CRS nor transform Raster Vision builds an IdentityCRSTransformer whose
transform is None, and its label store then fails to compute the prediction's transform. The
transform that means "pixels are coordinates" is the identity.
"""

from __future__ import annotations

from typing import Any

from rasterio import Affine


def ensure_transform(scene: Any) -> None:
    """Give a Raster Vision Scene of ungeoreferenced imagery the identity transform.

    Call it before scene.label_store.save(). Georeferenced scenes are left as they are.
    """
    for part in (scene.raster_source, scene.label_store):
        transformer = getattr(part, "crs_transformer", None)
        if transformer is not None and transformer.transform is None:
            transformer.transform = Affine.identity()
