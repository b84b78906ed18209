"""What the backends of all tasks have in common: chip, train, load a model."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from os.path import join
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rastervision.core.backend import Backend
from rastervision.fastai_backend import progress
from rastervision.fastai_backend.backend.scenes import (
    RasterVisionScene,
    Sampling,
    chip_size,
    classes_of,
    keeper,
    of_scene,
    windows_of,
)
from rastervision.fastai_backend.chips import ChipSource, common_format
from rastervision.fastai_backend.store import ChipFormat, ChipWriter, Part, StoredChips
from rastervision.fastai_backend.windows import (
    SceneWindows,
    WindowChips,
    fit,
    read_windows,
)
from rastervision.pipeline.file_system import download_if_needed

from rvk8s import storage
from rvk8s.errors import InputError
from rvk8s.storage.uploads import Uploads

if TYPE_CHECKING:
    from rastervision.core.data import DatasetConfig, SceneConfig
    from rastervision.core.rv_pipeline import ChipOptions, RVPipelineConfig
    from rastervision.fastai_backend.config import FastaiConfig
    from rastervision.fastai_backend.distributed import Group
    from rastervision.fastai_backend.predict import ScenePredictor

log = logging.getLogger(__name__)

T = TypeVar("T")


class FastaiBackend(Backend):
    """Chips and trains; a task adds predict_scene().

    Args:
        pipeline: says where everything lies.
        config: the options.
        tmp_dir: for files of this process.
    """

    #: Gives a scene the face of a SceneReader, with the task's labels.
    scene_reader: ClassVar[type[RasterVisionScene]] = RasterVisionScene

    def __init__(self, pipeline: RVPipelineConfig, config: FastaiConfig, tmp_dir: str):
        self.pipeline, self.config, self.tmp_dir = pipeline, config, tmp_dir
        self.predictor: ScenePredictor | None = None
        self.group: Group | None = None

    def get_sample_writer(self) -> Any:
        """Raster Vision's writer of single chips; this backend writes whole parts instead."""
        raise NotImplementedError("the fastai backend writes chips with chip_dataset()")

    def chip_dataset(self, dataset: DatasetConfig, chip_options: ChipOptions) -> None:
        """Write the chips of the given scenes into the chip store: a part for each group.

        Args:
            dataset: all scenes of the pipeline's dataset, or a split of them.
            chip_options: where windows lie, and which chips are dropped.
        """
        whole = self.pipeline.dataset
        for group, scenes, every in (
            ("train", dataset.train_scenes, whole.train_scenes),
            ("valid", dataset.validation_scenes, whole.validation_scenes),
        ):
            if scenes:
                ids = [s.id for s in every]
                start = ids.index(scenes[0].id)
                part = Part(group, start, start + len(scenes), len(every))
                self._chip_part(part, scenes, chip_options)

    def train(self, source_bundle_uri: str | None = None) -> None:
        """Train on the stored chips, or on windows if config.sampling is set; go on where an
        earlier training in train_uri stopped.

        Several ranks may call it together: rank 0 alone reads and writes train_uri, and chips are
        downloaded once on each node.

        Args:
            source_bundle_uri: bundle of a model to start from.
        """
        from rastervision.fastai_backend.distributed import Group
        from rastervision.fastai_backend.learner import train

        self.group = Group.join()
        settings, uri = self.config.settings(), self.pipeline.train_uri
        start_from = source_bundle_uri or settings.model.pretrained_uri
        settings.model = settings.model.model_copy(update={"pretrained_uri": start_from})
        output, uploads = Path(uri), None
        if storage.is_s3(uri) and self.group.writes:
            output = self._folder("train")
            known: storage.Known = {}
            storage.download_dir(uri, output)
            # best.pt before last.pt, as they are written: a restart relies on that.
            uploads = Uploads(output, uri, known=known, last=("last.pt", ".json"))
        train(
            settings,
            self._chips("train"),
            self._chips("valid"),
            classes_of(self.pipeline.dataset.class_config),
            output,
            sync=uploads,
            model_init=Path(self._fetch(start_from)) if start_from and self.group.writes else None,
        )
        if uploads is not None:
            uploads.finish()

    def load_model(self, uri: str | None = None) -> None:
        """Load the model of a bundle; by default of the one that train() wrote."""
        from rastervision.fastai_backend import bundle
        from rastervision.fastai_backend.predict import ScenePredictor

        path = self._fetch(uri or join(self.pipeline.train_uri, bundle.NAME))
        model, spec = bundle.load_model(Path(path))
        names = tuple(self.pipeline.dataset.class_config.names)
        if names != spec.class_names:
            raise InputError(
                f"the model predicts {', '.join(spec.class_names)}, "
                f"the class config says {', '.join(names)}",
                where=path,
                fix="run the train stage again",
            )
        self.predictor = ScenePredictor(model, spec, self.config.predict, self.config.data.img_sz)

    def loaded(self) -> ScenePredictor:
        """The predictor that load_model() made, or makes now."""
        if self.predictor is None:
            self.load_model()
        assert self.predictor is not None
        return self.predictor

    def _chip_part(
        self, part: Part, scenes: Sequence[SceneConfig], chip_options: ChipOptions
    ) -> None:
        classes = self.pipeline.dataset.class_config
        sampling, keep = chip_options.sampling, keeper(chip_options)
        size = self._chip_size(sampling)
        opened = [self._open(s, sampling) for s in scenes]
        channels, dtype = common_format(opened)
        uri = self.pipeline.chip_uri
        store = self._folder(f"chip-{part.group}") if storage.is_s3(uri) else Path(uri)
        chips = ChipFormat(size, channels, str(dtype), len(classes), self.scene_reader.label_kind)
        with ChipWriter(store, part, chips) as writer:
            for i, scene in enumerate(opened):
                plan = self._plan(scene, sampling)
                windows = [plan.window(0, k) for k in range(len(plan))]
                writer.start_scene(scene.id)
                before = writer.count
                for window, image, labels in read_windows(scene, windows):
                    chip = fit(image, labels, size)
                    if keep(*chip):
                        writer.add(*chip, window)
                kept = writer.count - before
                message = f"{part.group} scene {i + 1} of {len(scenes)}: {kept} chips"
                progress.report(scene=scene.id, message=message)
                log.info("%s: %s of %d windows", scene.id, message, len(windows))
        if storage.is_s3(uri):
            self._upload_part(store, part)

    def _upload_part(self, store: Path, part: Part) -> None:
        uri = self.pipeline.chip_uri
        for name in storage.list_dirs(uri):
            old = Part.parse(name)
            if old is not None and (old == part or part.replaces(old)):
                storage.delete_tree(join(uri, name))
        storage.upload_dir(store / part.name, join(uri, part.name))

    def _chips(self, group: str) -> ChipSource:
        """The chips of "train" or "valid", from the store or from the scenes."""
        dataset = self.pipeline.dataset
        scenes = dataset.train_scenes if group == "train" else dataset.validation_scenes
        ids = [s.id for s in scenes]
        sampling, options = self.config.sampling, self.pipeline.chip_options
        if sampling is None:
            try:
                return StoredChips(self._store, group, ids)
            except InputError as error:  # its folder is one in this pod
                here, there = str(self._store), self.pipeline.chip_uri
                what = str(error.what).replace(here, there)
                where = error.where and error.where.replace(here, there)
                raise InputError(what, where=where, fix=error.fix) from error

        def windows() -> WindowChips:
            return WindowChips(
                [self._plan(self._open(s, sampling), sampling, s) for s in scenes],
                self._chip_size(sampling),
                len(dataset.class_config),
                keep=keeper(options) if options is not None else None,
                fixed=group == "valid",
            )

        # One rank of a node opens the scenes first: that may download them.
        made: list[WindowChips] = []
        self._once_on_node(lambda: made.append(windows()))
        return made[0] if made else windows()

    @cached_property
    def _store(self) -> Path:
        """The chip store, as a local folder."""
        uri = self.pipeline.chip_uri
        if not storage.is_s3(uri):
            return Path(uri)

        def download() -> str:
            folder = self._folder("chips")
            storage.download_dir(uri, folder)
            return str(folder)

        return Path(self._once_on_node(download))

    def _once_on_node(self, make: Callable[[], T]) -> T:
        """What one rank of this node makes, while the others of the node wait."""
        return make() if self.group is None else self.group.on_each_node(make)

    def _chip_size(self, sampling: Sampling) -> int:
        """The size of all chips: a group's or a split's own would not fit the others'."""
        dataset = self.pipeline.dataset
        ids = [s.id for s in (*dataset.train_scenes, *dataset.validation_scenes)]
        return chip_size(sampling, ids, self.config.data.img_sz)

    def _open(self, scene: SceneConfig, sampling: Sampling) -> RasterVisionScene:
        built = scene.build(self.pipeline.dataset.class_config, self.tmp_dir)
        return self.scene_reader(built, of_scene(sampling, scene.id))

    def _plan(
        self, scene: RasterVisionScene, sampling: Sampling, config: SceneConfig | None = None
    ) -> SceneWindows:
        """Where the windows of a scene lie; with its config it can be opened once more."""

        def again() -> RasterVisionScene:
            if config is None:
                return scene
            reader = self._open(config, sampling)
            reader.shares(scene)
            return reader

        windows = windows_of(scene.scene, of_scene(sampling, scene.id), self.config.solver.seed)
        return SceneWindows(scene.id, again, scene.labelled(windows))

    def _fetch(self, uri: str) -> str:
        """A local copy of a file. Raster Vision's cache outlives the process and never looks
        whether the file has changed, as a bundle has after another training."""
        return download_if_needed(uri, self.tmp_dir, use_cache=False)

    def _folder(self, name: str) -> Path:
        """A folder of this process."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.tmp_dir))
