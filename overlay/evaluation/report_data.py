"""Data of the evaluation report, as the page reads it: estimates, seen images, operating point, calibration, protocol.

Nothing here computes: ``overlay.evaluation.report_facts`` and ``overlay.evaluation.outcome`` make these objects, and
``overlay.evaluation.report`` draws the page from them. Every metric is an ``Estimate`` with its 95 % interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.evaluation.curves import EvaluationCurves
from overlay.evaluation.estimates import Evaluation
from overlay.evaluation.gallery import MistakePair
from overlay.evaluation.intervals import Estimate, PairedDifference
from overlay.evaluation.mask_audit import MaskAudit
from overlay.evaluation.reliability import ReliabilityBins
from overlay.evaluation.subgroups import SubgroupTable


@dataclass(frozen=True)
class SeenImages:
    """Evaluated images that the model has seen, by the perceptual hashes in its file: the same, or near-duplicates."""

    images: int
    """images that were looked at"""
    train: int
    """near-duplicates of a training image"""
    val: int
    """near-duplicates of a validation image, and of no training image"""
    distance: int
    """largest Hamming distance of near-duplicates, in bits of 256"""

    @property
    def total(self) -> int:
        """Number of images that the model has seen."""
        return self.train + self.val


@dataclass(frozen=True)
class Inference:
    """Computation of the probabilities."""

    engine: str
    """engine and device: "openvino on cpu" """
    precision: str
    """number format: bf16, fp16, fp32 or int8"""
    flips: bool
    """whether the probabilities of each image and of its mirror image were averaged"""


@dataclass(frozen=True)
class DatasetFlow:
    """Images from the sources to the splits."""

    listed: int
    """images that were found in the sources"""
    rejected: int
    """images that could not be used, or were dropped for a near-duplicate with another label"""
    conflicts: int
    """pairs of near-duplicates with different labels"""
    near_duplicates: int
    """pairs of near-duplicates"""
    groups: int
    """groups of images that stay on one side of a split"""
    images: Mapping[str, Mapping[str, int]]
    """class -> split -> number of images"""


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol: the model, the dataset, its division into splits, and the computation."""

    model_file: str
    model_sha256: str
    arch: str
    image_size: int
    """side in pixels of the square that the model saw"""
    resize: str
    """the resize rule: squash, pad or crop"""
    weights: str
    """pretrained weights that the training started from"""
    trained_on: str
    """fingerprint of the dataset that the model was trained on"""
    dataset: str
    """the dataset's name or place"""
    fingerprint: str
    """of the dataset's contents"""
    split: str
    """the split that was evaluated"""
    fold: int | None
    """run of the cross-validation, from 0; None where the splits are those of the dataset"""
    folds: int | None
    """folds of the dataset; None without"""
    split_rule: str
    """rule of division in words, to follow "Divided": "at random, near-duplicates kept together" """
    split_seed: int
    split_images: Mapping[str, int]
    """split -> number of images"""
    flow: DatasetFlow
    overlay: str
    """the dataset's overlay style in words: "fill, #ff3b30, opacity 0.35"; "none" """
    model_overlay: str
    """the style of the model's training images, as ``overlay``; "unknown" """
    missing_classes: tuple[str, ...]
    """classes of the model that the dataset does not have"""
    inference: Inference
    versions: Mapping[str, str]
    """name of a package -> its version"""
    configuration: str = ""
    """the training's whole configuration as YAML, where the model lies in the folder of its run"""
    date: str | None = None
    """date of the evaluation; without it the page is the same to the byte for the same evaluation"""


@dataclass(frozen=True)
class OperatingResult:
    """Sensitivity and specificity of the positive class at the threshold that the model's card has."""

    positive: str
    threshold: float
    """an image is flagged where its probability of ``positive`` is this or higher"""
    threshold_n: int
    """positive validation images that the threshold was chosen on"""
    sensitivity: Estimate | None
    """None without positive images"""
    specificity: Estimate | None
    """None without negative images"""
    flagged: int
    """images at or above the threshold"""


@dataclass(frozen=True)
class UncertainResult:
    """Images whose confidence is below the threshold that the model's card has."""

    below: float
    share: Estimate
    """share of the images that are uncertain"""
    accuracy_of_rest: Estimate | None
    """accuracy on the other images; None where there is none"""


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Calibration of the probabilities on the evaluated images, with and without the model's temperature."""

    temperature: float
    """1 where none was fitted"""
    fitted_on: str
    """what the temperature was fitted on, or why it was not, in words"""
    log_loss_uncalibrated: Estimate
    """nats, of the probabilities at temperature 1; ``Evaluation.log_loss`` is the calibrated one"""
    log_loss_of_shares: Estimate | None
    """nats, of always answering the class shares of the dataset's training split; None without training images"""
    reliability: ReliabilityBins
    reliability_uncalibrated: ReliabilityBins


@dataclass(frozen=True)
class ConstantAnswer:
    """Always answering the class with the most images, beside the model."""

    name: str
    share: float
    """its accuracy"""
    p: float
    """exact group flips test against the model's accuracy"""


@dataclass(frozen=True)
class MaskOnly:
    """Mask-only baseline: scores on this split from the numbers of the masks alone (``metrics.mask_only_answers``)."""

    accuracy: Estimate
    macro_f1: Estimate
    difference: PairedDifference
    """the model's accuracy minus that of the masks alone"""
    p: float
    """exact group flips test of the two accuracies"""
    only_model_right: int
    only_masks_right: int
    numbers: tuple[str, ...]
    """the numbers in words, such as "area share" """


@dataclass(frozen=True)
class TrainingCurves:
    """Training history of the model."""

    history: Mapping[str, Sequence[float]]
    """columns of ``history.parquet``"""
    best_epoch: int
    """value of the column ``epoch`` whose weights were kept"""


@dataclass(frozen=True)
class DoubtedLabel:
    """Image whose label the model contradicts with confidence."""

    id: str
    label: str
    suggested: str
    margin: float
    """probability of the suggested class minus that of the label"""


@dataclass(frozen=True)
class ReportData:
    """Content of the page."""

    title: str
    evaluation: Evaluation
    protocol: Protocol
    constant: ConstantAnswer
    curves: EvaluationCurves
    cautions: tuple[str, ...] = ()
    """sentences for the bar at the top of the page, such as that the model has seen the images; mostly none"""
    seen: SeenImages | None = None
    """None where the model's file has no hashes"""
    operating: OperatingResult | None = None
    """None where the model's card has no threshold"""
    uncertain: UncertainResult | None = None
    """None where the model's card has no ``uncertain_below``"""
    calibration: CalibrationResult | None = None
    mask_only: MaskOnly | None = None
    mask_only_lesions: MaskOnly | None = None
    """the same for the images with a lesion alone; None where all have one"""
    audit: MaskAudit | None = None
    mistakes: tuple[MistakePair, ...] = ()
    """the most confident first, as ``metrics.worst_mistakes`` orders them"""
    doubts: tuple[DoubtedLabel, ...] = ()
    """the largest margin first"""
    subgroups: tuple[SubgroupTable, ...] = ()
    training: TrainingCurves | None = None
    """None where the model's file lies outside of a run"""
