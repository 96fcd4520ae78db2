"""Sentences and protocol facts of the evaluation report, from its data."""

from overlay.evaluation.page import percent, plain
from overlay.evaluation.report_data import Protocol, ReportData

MOST_DOUBTS = 20
"""doubted labels that are listed"""
STATISTICS = (
    "Intervals are effective-sample-size Wilson intervals over groups of dependent images, from influence functions, "
    "with Student's t (Kott & Carr 1997; Franco et al. 2019, J. Surv. Stat. Methodol. 7:334), and t intervals for mean "
    "losses. Intervals of differences are by MOVER (Newcombe 1998, Stat. Med. 17:2635; Zou & Donner 2008, Stat. Med. "
    "27:1693). Tests swap two answers group by group, exactly, which is McNemar's test where every image is a group of "
    "its own; p-values are not adjusted for their number."
)


def describe_split(protocol: Protocol) -> str:
    """Return what was evaluated: "the test split", with the fold where there are folds."""
    fold = "" if protocol.fold is None else f" of fold {protocol.fold} (of {protocol.folds})"
    return f"the {protocol.split} split{fold}"


def loss_sentence(data: ReportData) -> str:
    """Return log loss and Brier score, beside the log loss of the class shares and that without the temperature."""
    loss, brier = data.evaluation.log_loss, data.evaluation.brier
    said, calibration = f"Log loss {plain(loss.value)} nats ({plain(loss.low)} to {plain(loss.high)})", data.calibration
    others = []
    if calibration is not None and calibration.log_loss_of_shares is not None:
        others.append(f"{plain(calibration.log_loss_of_shares.value)} of always answering the training shares")
    if calibration is not None and calibration.temperature != 1:
        others.append(f"{plain(calibration.log_loss_uncalibrated.value)} without the temperature")
    if others:
        said += f", against {' and '.join(others)}"
    return (
        f"{said}; Brier score {plain(brier.value)} ({plain(brier.low)} to {plain(brier.high)}). Small grey numbers are "
        "95 % intervals; a dash is a number that is not defined."
    )


def errors_sentence(data: ReportData) -> str:
    """Return the number of errors, and the three most frequent kinds."""
    classes, counts = data.evaluation.classes, data.evaluation.confusion
    kinds = [
        (count, f"{classes[row]} called {classes[column]} ({count})")
        for row, values in enumerate(counts)
        for column, count in enumerate(values)
        if row != column and count
    ]
    if not kinds:
        return "No image was classified wrongly."
    wrong = sum(count for count, _ in kinds)
    most = [text for _, text in sorted(kinds, key=lambda kind: -kind[0])[:3]]
    return f"{wrong} of {data.evaluation.images} images were classified wrongly, most often {', '.join(most)}."


def doubts_sentence(data: ReportData) -> str:
    """Return the number of doubted labels, and how they were found."""
    number = len(data.doubts)
    listed = f", of which the {MOST_DOUBTS} with the largest margin are listed" if number > MOST_DOUBTS else ""
    return (
        f"The model doubts {number} label{'s' if number != 1 else ''} by confident learning (Northcutt et al. 2021, J. "
        f"Artif. Intell. Res. 70:1373){listed}: wrong labels or hard images, for a reader to look at."
    )


def gallery_sentence(data: ReportData) -> str:
    """Return what the pictures of the mistakes show."""
    shown = "The only mistake" if len(data.mistakes) == 1 else f"The {len(data.mistakes)} most confident mistakes"
    if all(pair.heat is None for pair in data.mistakes):
        arch = data.protocol.arch
        return f"{shown} as the model saw them; without Grad-CAM, since {arch} has no feature map near its end."
    return (
        f"{shown}: left what the model saw, right the evidence for its answer (Grad-CAM, Selvaraju et al. 2017, ICCV), "
        "with the mask outlined in white."
    )


def curves_sentences(data: ReportData) -> str:
    """Return where threshold, temperature and uncertainty come from, and what they make of these images."""
    notes = []
    if (point := data.operating) is not None:
        notes.append(
            f"The threshold {plain(point.threshold)} for {point.positive} was chosen on the {point.threshold_n} "
            f"validation images of that class; {point.flagged} images here are at or above it."
        )
    if (calibration := data.calibration) is not None:
        notes.append(f"The temperature is {plain(calibration.temperature)}, {calibration.fitted_on}.")
    if (uncertain := data.uncertain) is not None:
        rest = uncertain.accuracy_of_rest
        said = "" if rest is None else f", and the model is right on {percent(rest.value)} of the rest"
        notes.append(
            f"A confidence below {plain(uncertain.below)} is uncertain: {percent(uncertain.share.value)} of the "
            f"images{said}."
        )
    notes.append("The area of a dot of the calibration is its share of the images.")
    return " ".join(notes)


def training_sentence(data: ReportData) -> str:
    """Return that the losses of the history are not calibrated, where the model is; else nothing."""
    fitted = data.calibration is not None and data.calibration.temperature != 1
    return "The validation loss of the training is without the temperature." if fitted else ""


def protocol_facts(data: ReportData) -> list[tuple[str, str]]:
    """Return name and text of each fact of the protocol."""
    protocol, inference = data.protocol, data.protocol.inference
    mirrored = "averaged over the mirror image" if inference.flips else "without mirror images"
    versions = ", ".join(f"{name} {version}" for name, version in protocol.versions.items())
    facts = [("Divided", f"{protocol.split_rule}; seed {protocol.split_seed}")]
    if (seen := data.seen) is not None:
        looked = f"within {seen.distance} of 256 bits of a training or validation image"
        facts.append(("Seen images", f"{seen.total} of {seen.images} {looked}"))
    if protocol.missing_classes:
        facts.append(("Missing classes", f"the dataset has no {', '.join(protocol.missing_classes)}"))
    weights = "random weights" if protocol.weights == "none" else f"the weights {protocol.weights}"
    facts.append(("Model", f"{protocol.arch}, {protocol.model_file}, started from {weights}"))
    facts.append(("Input", f"{protocol.image_size} x {protocol.image_size} pixels, {protocol.resize}"))
    facts.append(("Overlay", protocol.overlay))
    if protocol.overlay != protocol.model_overlay:
        facts.append(("Trained with", f"overlay {protocol.model_overlay}"))
    facts.append(("Computed", f"{inference.engine}, {inference.precision}, {mirrored}"))
    facts.append(("Versions", versions))
    if protocol.date is not None:
        facts.append(("Date", protocol.date))
    return facts
