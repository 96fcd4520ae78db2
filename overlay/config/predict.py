"""Options of `overlay predict`."""

from dataclasses import dataclass, field

from overlay.config.cluster import ClusterOptions
from overlay.config.common import (
    BatchSize,
    Device,
    EngineKind,
    Images,
    Legacy,
    Limits,
    LogFormat,
    Place,
    Precision,
    SeveralPlaces,
    Tracking,
    check,
    check_batch_size,
    check_engine,
)
from overlay.config.masks import MaskNames


@dataclass(frozen=True)
class Predict:
    """Batch inference: one row of Parquet for each input image, with its prediction or its error."""

    model: SeveralPlaces
    """a model file, or the folder of a run; several, separated by commas, such as those of a cross-validation's folds:
    the mean of their probabilities"""
    inputs: list[Place]
    """image files, folders with all their subfolders, archives, Parquet tables, prepared datasets, patterns such as
    'scans/**/*.png', on a disk or in a bucket (s3://, gs://); - reads a list from standard input, one path a line"""
    out: Place
    """folder of the predictions, on a disk or in a bucket; the same command resumes predictions that were stopped"""
    allow_root: SeveralPlaces | None = None
    """folders or buckets, separated by commas, in which tables and lists may name files, beside the table's own folder
    or bucket, and for a list the folder of the command"""
    legacy: Legacy = field(default_factory=Legacy)
    images: Images = field(default_factory=Images)
    masks: MaskNames = field(default_factory=MaskNames)
    limits: Limits = field(default_factory=Limits)
    tracking: Tracking = field(default_factory=lambda: Tracking(mode="disabled"))
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    batch_size: BatchSize = "auto"
    """images in one forward pass; auto is 32 on CPUs, and on a GPU the number that is fastest there, measured at the
    start. Where a GPU's memory is too small, it is halved"""
    engine: EngineKind = "auto"
    """inference engine: torch, torch.compile, or OpenVINO; auto is OpenVINO on CPUs where it is installed"""
    device: Device = "auto"
    """auto is cuda where there is a GPU"""
    precision: Precision = "auto"
    """auto is bf16 where the hardware has it; int8, which OpenVINO has, is calibrated on some of the inputs"""
    actors: int | None = None
    """processes that hold the model; default is one for each GPU, or one for each node on CPUs"""
    flips: bool = False
    """test-time augmentation: average the probabilities of an image and of its horizontal flip"""
    top_k: int | None = None
    """add the columns top_labels and top_probabilities, of this many classes"""
    entropy: bool = False
    """add the column entropy: predictive entropy in nats, from 0 to ln(classes)"""
    embeddings: bool = False
    """add the column embedding: input of the network's last layer; of several models, of the first"""
    max_pixels: int | None = None
    """largest image in pixels; a larger one becomes an error row before it is decoded; default is the model's own
    limit"""
    part_rows: int = 10_000
    """rows in one output file"""
    retry_errors: bool = False
    """retry the inputs that could not be read, in predictions of the same request"""
    log_format: LogFormat = "text"
    """text, or json: each printed line, and each line of overlay.log in the output folder, is a JSON object"""
    overwrite: bool = False
    """replace the predictions in --out"""

    def __post_init__(self) -> None:
        check(len(self.inputs) > 0, "no input given; name at least one image or folder")
        check(self.inputs.count("-") <= 1, "- is named twice; a list can be read from standard input once")
        check(self.actors is None or self.actors >= 1, f"actors is {self.actors}; it must be at least 1")
        check(self.top_k is None or self.top_k >= 1, f"top_k is {self.top_k}; it must be at least 1")
        check(
            self.max_pixels is None or self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1"
        )
        check(self.part_rows >= 1, f"part_rows is {self.part_rows}; it must be at least 1")
        check_batch_size(self.batch_size)
        check_engine(self.engine, self.precision)
        both = "retry_errors resumes predictions that overwrite would delete; give one of them"
        check(not (self.retry_errors and self.overwrite), both)
