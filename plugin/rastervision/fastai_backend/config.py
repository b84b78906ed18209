"""Raster Vision's configs of the fastai backends, one for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator
from rastervision.core.backend import BackendConfig
from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ObjectDetectionLabelSourceConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.rv_pipeline import (
    ChipClassificationConfig,
    ObjectDetectionConfig,
    ObjectDetectionWindowSamplingConfig,
    SemanticSegmentationConfig,
)
from rastervision.core.rv_pipeline.chip_options import WindowSamplingConfig
from rastervision.fastai_backend.options import (
    ClassifierOptions,
    DataOptions,
    DetectorOptions,
    ModelOptions,
    PredictSettings,
    SolverOptions,
    TrainSettings,
)
from rastervision.pipeline.config import register_config

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig, LabelSourceConfig
    from rastervision.core.rv_pipeline import RVPipelineConfig
    from rastervision.fastai_backend.backend.base import FastaiBackend


class FastaiConfig(BackendConfig):
    """Train and predict with fastai. The options are described in fastai_backend.options."""

    #: What it does in words; its class in the package backend, which is imported where one is
    #: built; and the configs of its pipeline and of its labels.
    task: ClassVar[str]
    backend: ClassVar[str]
    pipeline_type: ClassVar[type[RVPipelineConfig]]
    label_type: ClassVar[type[LabelSourceConfig]]

    model: ModelOptions | ClassifierOptions | DetectorOptions
    data: DataOptions = DataOptions()
    solver: SolverOptions = SolverOptions()
    predict: PredictSettings = PredictSettings()
    sampling: WindowSamplingConfig | dict[str, WindowSamplingConfig] | None = Field(
        None,
        description="Read windows straight from the scenes while training, sampled like this (by "
        "scene id, if a dict), instead of chipping first. There is no chip stage then.",
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> FastaiConfig:
        self.settings()
        return self

    def settings(self) -> TrainSettings:
        """The options as the training core takes them."""
        return TrainSettings(
            model=self.model, data=self.data, solver=self.solver, predict=self.predict
        )

    def check(
        self, classes: ClassConfig, gpus: int, ranks: int = 1, chip_sz: int | None = None
    ) -> list[InputError]:
        """What is wrong with the options for these classes, before any work is done.

        Args:
            gpus: how many the training will have.
            ranks: how many processes train.
            chip_sz: pixels of a chip's side, where they are known.
        """
        from rastervision.fastai_backend import checks
        from rastervision.fastai_backend.backend.scenes import classes_of

        return checks.check(self.settings(), classes_of(classes), gpus, ranks, chip_sz)

    def build(  # type: ignore[override]  # Raster Vision hints RVPipeline and passes its config
        self, pipeline: RVPipelineConfig, tmp_dir: str
    ) -> FastaiBackend:
        from rastervision.fastai_backend import backend

        built: FastaiBackend = getattr(backend, self.backend)(pipeline, self, tmp_dir)
        return built

    def get_bundle_filenames(self) -> list[str]:
        return ["model-bundle.zip"]

    def filter_commands(self, commands: list[str]) -> list[str]:
        if self.sampling is None:
            return commands
        return [c for c in commands if c != "chip"]


@register_config("fastai_semantic_segmentation_backend")
class FastaiSemanticSegmentationConfig(  # type: ignore[call-arg]  # the decorator is hinted wrongly
    FastaiConfig
):
    """Semantic segmentation: a class for each pixel."""

    task = "semantic segmentation"
    backend = "FastaiSemanticSegmentation"
    pipeline_type = SemanticSegmentationConfig
    label_type = SemanticSegmentationLabelSourceConfig

    model: ModelOptions = ModelOptions()


@register_config("fastai_chip_classification_backend")
class FastaiChipClassificationConfig(  # type: ignore[call-arg]  # the decorator is hinted wrongly
    FastaiConfig
):
    """Chip classification: a class for each chip."""

    task = "chip classification"
    backend = "FastaiChipClassification"
    pipeline_type = ChipClassificationConfig
    label_type = ChipClassificationLabelSourceConfig

    model: ClassifierOptions = ClassifierOptions()


@register_config("fastai_object_detection_backend")
class FastaiObjectDetectionConfig(  # type: ignore[call-arg]  # the decorator is hinted wrongly
    FastaiConfig
):
    """Object detection: boxes around objects."""

    task = "object detection"
    backend = "FastaiObjectDetection"
    pipeline_type = ObjectDetectionConfig
    label_type = ObjectDetectionLabelSourceConfig

    model: DetectorOptions = DetectorOptions()
    sampling: (
        ObjectDetectionWindowSamplingConfig | dict[str, ObjectDetectionWindowSamplingConfig] | None
    ) = Field(None, description="As for the other tasks, with what Raster Vision adds for boxes.")
