"""Evaluation of a model on one split of a prepared dataset: metrics, figures, report.

overlay evaluate run dataset --out evaluation
overlay evaluate run/Resnet_fineTuning.pth dataset --out evaluation --split val
"""

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.exceptions import RayError

from cluster import session
from overlay.config import Evaluate, InferenceOptions
from overlay.dataset.folds import select_fold
from overlay.dataset.prepared import open_dataset
from overlay.dataset.rows import read_rows
from overlay.engines.base import BatchScores, Floats, Pixels
from overlay.errors import WorkError, faults_end_the_work
from overlay.evaluation.dataset_images import read_calibration_pixels
from overlay.evaluation.output_files import Extras, ScoredSplit, check_evaluation_folder, write_evaluation
from overlay.evaluation.report_data import Inference
from overlay.evaluation.subject import EvaluationSubject, check_split, count_seen
from overlay.models.model_file import load_model_file
from overlay.prediction.schema import evaluation_schema
from pipelines.inference.model_actors import create_engine_plan, score_with_plan
from pipelines.runtime.dataset_rows import decoded_rows
from pipelines.runtime.placement import choose_device


class LabelledScores(BatchScores):
    """Columns of n scored rows of a prepared dataset."""

    id: NDArray[np.str_]


@faults_end_the_work()
def run(config: Evaluate) -> None:
    """Evaluate into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the evaluation failed.
    """
    model, dataset = load_model_file(config.model, config.legacy), open_dataset(config.dataset)
    if model.card.fold is not None and model.card.dataset == dataset.card.fingerprint:
        print(f"the model is that of fold {model.card.fold}: evaluating on the {config.split} split of that fold")
        dataset = select_fold(dataset, model.card.fold)
    subject = EvaluationSubject(model, dataset, config.split)
    out = Path(config.out).expanduser().absolute()
    check_evaluation_folder(out, config.out)
    seen = count_seen(subject)
    check_split(subject, seen, allow_seen=config.allow_seen)
    session.connect()
    options = InferenceOptions(
        choose_device(config.device, session.resources()),
        config.precision,
        config.batch_size,
        kind=config.engine,
        flips=config.flips,
    )
    int8 = config.precision == "int8"
    calibration = read_calibration_pixels(subject.dataset, subject.model.card) if int8 else None
    result = write_evaluation(subject, score_split(subject, options, calibration), out, Extras(seen))
    print("\n".join(result.lines()))
    print(f"report: {out / 'report.html'}")


def score_split(
    subject: EvaluationSubject, options: InferenceOptions, calibration: Pixels | None = None
) -> ScoredSplit:
    """Classify the images of a split on Ray: the columns of a prediction, true_label, group, fold and split, by id.

    Raises:
        RequestError: the engine is not installed, or doesn't fit the device or the precision.
        WorkError: an image of the dataset can't be decoded, or a worker failed again and again.
    """
    plan = create_engine_plan([subject.model], options, calibration)
    rows = decoded_rows(subject.dataset, subject.split, subject.model.card.input, options.batch_size)
    scored = score_with_plan(plan, rows, options, session.resources())
    try:
        blocks = [cast(LabelledScores, block) for block in scored.iter_batches(batch_size=None)]
    except RayError as error:
        raise WorkError(f"evaluation stopped: {str(error).strip().splitlines()[-1]}") from error
    ids = np.concatenate([block["id"] for block in blocks])
    probabilities = np.concatenate([block["probabilities"] for block in blocks])[np.argsort(ids)]
    inference = Inference(str(plan), str(blocks[0]["precision"][0]), options.flips)
    return ScoredSplit(_predictions(subject, probabilities), inference)


def _predictions(subject: EvaluationSubject, probabilities: Floats) -> pa.Table:
    """Return the predictions of (n, C) probabilities, which are in the order of the ids."""
    known = read_rows(subject.dataset, subject.split, ["label", "group", "fold"])
    classes, n = subject.model.card.classes, len(known)
    columns = {
        "id": known["id"],
        "uri": [subject.dataset.path] * n,
        "member": pa.nulls(n),
        "status": ["ok"] * n,
        "error": pa.nulls(n),
        "label": np.array(classes)[probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
        "model": [subject.model.sha256] * n,
        "true_label": known["label"],
        "group": known["group"],
        "fold": known["fold"],
        "split": [subject.split] * n,
    }
    columns |= {f"prob_{name}": probabilities[:, index] for index, name in enumerate(classes)}
    return pa.Table.from_pydict(columns, schema=evaluation_schema(classes))
