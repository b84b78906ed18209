"""Raster Vision's config of the fastai backend for semantic segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from rastervision.core.backend import BackendConfig
from rastervision.core.rv_pipeline.chip_options import WindowSamplingConfig
from rastervision.fastai_backend.options import (
    DataOptions,
    ModelOptions,
    PredictSettings,
    SolverOptions,
    TrainSettings,
)
from rastervision.pipeline.config import register_config

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig
    from rastervision.core.rv_pipeline import RVPipelineConfig
    from rastervision.fastai_backend.backend import FastaiSemanticSegmentation


@register_config("fastai_semantic_segmentation_backend")
class FastaiSemanticSegmentationConfig(  # type: ignore[call-arg]  # the decorator is hinted wrongly
    BackendConfig
):
    """Train and predict with fastai. The options are described in fastai_backend.options."""

    model: ModelOptions = ModelOptions()
    data: DataOptions = DataOptions()
    solver: SolverOptions = SolverOptions()
    predict: PredictSettings = PredictSettings()
    sampling: WindowSamplingConfig | dict[str, WindowSamplingConfig] | None = Field(
        None,
        description="Read windows straight from the scenes while training, sampled like this (by "
        "scene id, if a dict), instead of chipping first. There is no chip stage then.",
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> FastaiSemanticSegmentationConfig:
        self.settings()
        return self

    def settings(self) -> TrainSettings:
        """The options as the training core takes them."""
        return TrainSettings(
            model=self.model, data=self.data, solver=self.solver, predict=self.predict
        )

    def check(self, classes: ClassConfig, gpus: int, ranks: int = 1) -> list[InputError]:
        """What is wrong with the options for these classes, before any work is done.

        Args:
            gpus: how many the training will have.
            ranks: how many processes train.
        """
        from rastervision.fastai_backend import checks
        from rastervision.fastai_backend.backend.scenes import classes_of

        return checks.check(self.settings(), classes_of(classes), gpus, ranks)

    def build(  # type: ignore[override]  # Raster Vision hints RVPipeline and passes its config
        self, pipeline: RVPipelineConfig, tmp_dir: str
    ) -> FastaiSemanticSegmentation:
        from rastervision.fastai_backend.backend import FastaiSemanticSegmentation

        return FastaiSemanticSegmentation(pipeline, self, tmp_dir)

    def get_bundle_filenames(self) -> list[str]:
        return ["model-bundle.zip"]

    def filter_commands(self, commands: list[str]) -> list[str]:
        if self.sampling is None:
            return commands
        return [c for c in commands if c != "chip"]
