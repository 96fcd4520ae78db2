"""The options of `overlay predict`."""

from dataclasses import dataclass, field

from overlay.config.common import Device, EngineKind, Legacy, Limits, Precision, Tracking, check, check_engine


@dataclass(frozen=True)
class Predict:
    """Classify images in bulk: one row of Parquet for each input, whatever happened to it."""

    model: str
    """a model file, or the folder of a run"""
    inputs: list[str]
    """image files, folders with all their subfolders, archives, Parquet tables, prepared datasets, patterns such as
    'scans/**/*.png', on a disk or in a bucket (s3://, gs://); - reads a list from standard input, one path a line"""
    out: str
    """folder of the predictions, on a disk or in a bucket; the same command goes on where it stopped"""
    legacy: Legacy = field(default_factory=Legacy)
    limits: Limits = field(default_factory=Limits)
    tracking: Tracking = field(default_factory=lambda: Tracking(mode="disabled"))
    batch_size: int = 32
    engine: EngineKind = "auto"
    """torch, torch.compile, or OpenVINO; auto takes OpenVINO on CPUs where it is installed"""
    device: Device = "auto"
    precision: Precision = "auto"
    """auto takes bf16 where the hardware has it; int8, which OpenVINO has, is calibrated on some of the inputs"""
    actors: int | None = None
    """processes that hold the model; one for each GPU, or one on CPUs, where it is not given"""
    flips: bool = False
    """average the probabilities of an image and of its mirror image"""
    top_k: int | None = None
    """add the columns top_labels and top_probabilities, of this many classes"""
    entropy: bool = False
    """add the column entropy, in nats: 0 where the model is sure"""
    embeddings: bool = False
    """add the column embedding, what the network's last layer sees"""
    max_pixels: int | None = None
    """an image that would decode to more pixels than this becomes an error row; the model's own limit where it is not
    given"""
    part_rows: int = 10_000
    """rows in one output file"""
    retry_errors: bool = False
    """try again what could not be read, in predictions of the same request"""
    overwrite: bool = False
    """replace the predictions that --out holds"""

    def __post_init__(self) -> None:
        check(len(self.inputs) > 0, "no input given; name at least one image or folder")
        check(self.inputs.count("-") <= 1, "- is named twice; a list can be read from standard input once")
        check(self.actors is None or self.actors >= 1, f"actors is {self.actors}; it must be at least 1")
        check(self.top_k is None or self.top_k >= 1, f"top_k is {self.top_k}; it must be at least 1")
        check(
            self.max_pixels is None or self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1"
        )
        for name in ("batch_size", "part_rows"):
            check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        check_engine(self.engine, self.precision)
        both = "retry_errors goes on with predictions that overwrite would delete; give one of them"
        check(not (self.retry_errors and self.overwrite), both)
