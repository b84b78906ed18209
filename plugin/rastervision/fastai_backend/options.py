"""The options of a fastai training, declared once: Raster Vision's configs and the core read these.

Raster Vision's names where it has one, the 2019 plugin's names where they still make sense
(docs/guide/options-2019.md maps every one of them). Bounds stand on the fields, so a bad value is
reported with its key before any work is done.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Proportion = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


class Options(BaseModel):
    """Base of all option groups: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Oversample(Options):
    """Draw chips that hold rare classes more often."""

    rare_class_ids: list[int] = Field(min_length=1, description="Ids of the rare classes.")
    rare_target_prop: float = Field(
        gt=0, le=1, description="Proportion of drawn chips that hold one of them."
    )
    rare_min_prop: float = Field(
        0.0, ge=0, lt=1, description="A chip holds one if more than this share of its pixels does."
    )


class BackboneOptions(Options):
    """What all networks stand on."""

    backbone: str = Field(
        "resnet18",
        description="Any torchvision classifier that fastai can cut; the 2019 plugin's model_arch.",
    )
    pretrained: bool = Field(True, description="Start the backbone from ImageNet weights.")
    pretrained_uri: str | None = Field(
        None,
        description="A model bundle or weights file to start from instead: the whole network "
        "where shapes agree, else the backbone. Of other bands the first ones keep their weights, "
        "and those beyond take the mean.",
    )


class ModelOptions(BackboneOptions):
    """The network of a semantic segmentation."""

    arch: Literal["unet", "deeplabv3"] = Field(
        "unet", description="fastai's DynamicUnet, or torchvision's DeepLabV3 head."
    )
    last_cross: bool = Field(
        True, description="unet: feed the input image to the last block; off is 40% cheaper."
    )


class ClassifierOptions(BackboneOptions):
    """The network of a chip classification."""

    arch: Literal["classifier"] = Field(
        "classifier", description="fastai's head of two linear layers."
    )
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the features that training leaves out before the last layer; half "
        "of it before the one before.",
    )


class DetectorOptions(BackboneOptions):
    """The network of an object detection."""

    arch: Literal["retinanet"] = Field(
        "retinanet", description="torchvision's feature pyramid and heads of a RetinaNet."
    )
    anchor_sz: int = Field(
        16,
        ge=4,
        description="Side of the smallest boxes to look for, in the pixels that the network sees; "
        "the largest are 25 times that.",
    )
    features: int = Field(
        256,
        ge=8,
        multiple_of=8,
        description="Channels of the pyramid and the heads; fewer are faster.",
    )


class DataOptions(Options):
    """Chips on their way into the network."""

    img_sz: int | None = Field(
        None, ge=32, description="Resize chips to this many pixels; None keeps their size."
    )
    train_prop: Proportion = Field(1.0, description="Proportion of the training chips to use.")
    train_count: int | None = Field(
        None, ge=1, description="Number of training chips to use; instead of train_prop."
    )
    oversample: Oversample | None = Field(
        None, description="Draw chips that hold rare classes more often; see below."
    )
    flip_horiz: bool = Field(True, description="Mirror chips left to right, half of the time.")
    flip_vert: bool = Field(False, description="Mirror chips top to bottom, half of the time.")
    dihedral: bool = Field(False, description="All 8 flips and quarter turns, equally often.")
    lighting: Proportion = Field(
        0.0, description="Greatest change of brightness and contrast, as a proportion."
    )
    normalize: Literal["data", "scale"] = Field(
        "data",
        description="data: subtract the mean of each band of the training chips and divide by its "
        "deviation; scale: divide by the data type's maximum, as Raster Vision does.",
    )
    num_workers: int = Field(0, ge=0, description="Processes that read chips ahead; 0: none.")
    debug: bool = Field(False, description="Save pictures of what the network sees in training.")


class SolverOptions(Options):
    """The optimisation. The loss is a mean over the pixels (or chips) that are not ignored."""

    batch_sz: int = Field(8, ge=1, description="Chips in a batch, over all ranks.")
    num_epochs: int = Field(
        5,
        ge=1,
        description="Epochs with the whole network trained. With the constant schedule Raster "
        "Vision's own runner, in the same folder, goes on with more of them.",
    )
    freeze_epochs: int = Field(0, ge=0, description="Epochs before those with the body frozen.")
    lr: float | None = Field(
        1e-4, gt=0, description="Learning rate, the peak of a schedule; None: fastai's lr_find."
    )
    schedule: Literal["constant", "one_cycle", "flat_cos"] = Field(
        "one_cycle",
        description="one_cycle: up to lr in a quarter of the epochs, then down; flat_cos: lr for "
        "three quarters, then down. Frozen epochs have a schedule of their own.",
    )
    loss: Literal["cross_entropy", "focal", "dice", "cross_entropy_dice"] = Field(
        "cross_entropy",
        description="focal: cross entropy in which pixels that are right already count less (gamma "
        "2), class_weights being its alpha; dice: 1 - Dice of the probabilities, the mean over "
        "classes and chips, for rare classes; cross_entropy_dice: their sum. class_weights and "
        "label_smoothing are of cross entropy: dice takes neither, focal no label_smoothing. Chips "
        "of one class have no Dice.",
    )
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled from the gradient, as in AdamW.")
    precision: Precision = Field(
        "auto",
        description="auto: bf16 where the device computes it natively, else fp16 on a GPU, "
        "else fp32; a training that goes on keeps its own where the device has it. fp16 needs a "
        "GPU. In fp32, GPUs since Ampere round what convolutions multiply to TF32.",
    )
    class_weights: list[float] | Literal["balanced"] | None = Field(
        None,
        description="A weight for each class, 0: it adds nothing; balanced: inverse of its share "
        "of the pixels (or chips), 1 for classes that are not scored.",
    )
    ignore_class_index: int | None = Field(
        None,
        description="Pixels (or chips) that are labelled so add nothing to the loss, nor to scores "
        "and pictures of training and eval.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each pixel's target that is spread over all classes."
    )
    grad_clip: float | None = Field(None, gt=0, description="Greatest norm of the gradient.")
    grad_accum: int = Field(
        1,
        ge=1,
        description="Batches whose mean gradient makes one step; an epoch's last may have fewer.",
    )
    beta: float = Field(1.0, gt=0, description="The best epoch is the one of the best F-beta.")
    early_stop_patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many epochs without a better F-beta; frozen ones don't count.",
    )
    save_all_checkpoints: bool = Field(False, description="Keep a checkpoint of every epoch.")
    checkpoint_seconds: float = Field(
        300.0, gt=0, description="Save the state this often also within an epoch."
    )
    sync_interval: int = Field(1, ge=1, description="Upload the train folder every N epochs.")
    log_tensorboard: bool = Field(True, description="Write train/tensorboard/.")
    sync_bn: bool = Field(
        False,
        description="Several ranks: batch normalization over the chips of all of them; on GPUs. "
        "Worth it where a rank has fewer than four.",
    )
    seed: int = Field(0, ge=0, description="Same seed, same machine, on a CPU: same model.")


class PredictSettings(Options):
    """How the network is used on a scene."""

    tta: bool = Field(False, description="Average over the 8 flips and quarter turns; 8x the time.")
    precision: Precision = Field(
        "fp32",
        description="fp32 gives every pixel as Raster Vision would on a CPU; no GPU rounds it to "
        "TF32. bf16 and fp16 are faster and change about one pixel in a thousand; the network's "
        "ends stay fp32.",
    )
    exact: bool = Field(
        True,
        description="With fp32: add numbers in Raster Vision's order. Off is faster and rounds "
        "otherwise: a few pixels in a million differ.",
    )


class TrainSettings(Options):
    """Everything that a training is told, beside its data and its classes."""

    model: ModelOptions | ClassifierOptions | DetectorOptions = Field(default_factory=ModelOptions)
    data: DataOptions = Field(default_factory=DataOptions)
    solver: SolverOptions = Field(default_factory=SolverOptions)
    predict: PredictSettings = Field(default_factory=PredictSettings)

    @model_validator(mode="after")
    def _one_subset(self) -> TrainSettings:
        if self.data.train_count is not None and self.data.train_prop != 1.0:
            raise ValueError("train_count and train_prop are both set; keep one of them")
        return self
