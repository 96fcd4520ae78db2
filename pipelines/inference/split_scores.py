"""Scores of a split of a prepared dataset: in this process, or by tasks and model actors on Ray."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NotRequired, cast

import joblib
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.config import InferenceOptions
from overlay.engines.base import BatchScores, EnginePlan, ImageBatch, replace_pixels
from overlay.engines.factory import open_engine
from overlay.errors import WorkError
from overlay.sources.split_reading import SplitReading
from overlay.storage.ahead import map_ahead, worker_threads
from pipelines.inference.join_batches import join_batches


class LabelledScores(BatchScores):
    """Columns of n scored rows of a prepared dataset."""

    id: NDArray[np.str_]
    view: NotRequired[NDArray[np.str_]]


def score_in_process(plan: EnginePlan, reading: SplitReading, options: InferenceOptions) -> Iterator[LabelledScores]:
    """Yield the scored batches of a split, in the order of its shards; threads decode a few batches ahead.

    Raises:
        WorkError: an image can't be decoded.
    """
    engine = open_engine(plan, batch_size=options.batch_size, flips=options.flips)
    decode = cast(Callable[[pa.Table], ImageBatch], reading.decode)
    tables = (cut for shard in range(len(reading.shards)) for cut in reading.cut(reading.rows(shard)))
    cores = joblib.cpu_count()
    with worker_threads(cores) as decoding, worker_threads(plan.in_flight) as scoring:
        decoded = map_ahead(decoding, decode, tables, cores)  # Pillow releases the GIL while it decodes
        batches = join_batches(decoded, engine.chunk)
        for scored in map_ahead(scoring, partial(replace_pixels, engine), batches, plan.in_flight):
            yield cast(LabelledScores, scored)


def score_on_ray(plan: EnginePlan, reading: SplitReading, options: InferenceOptions) -> Iterator[LabelledScores]:
    """Yield the scored batches of a split, in any order; this process has joined a Ray session.

    Raises:
        WorkError: an image can't be decoded, or a worker failed again and again.
    """
    from ray.exceptions import RayError  # Ray takes seconds to import

    from cluster import session
    from pipelines.inference.actor_pool import plan_pool
    from pipelines.inference.model_actors import score_with_plan
    from pipelines.runtime.dataset_rows import read_on_ray
    from pipelines.runtime.ray_errors import explain_ray_error
    from pipelines.runtime.silence import SilenceWatch, report_silence

    pool = plan_pool(options, session.resources().nodes)
    scored = score_with_plan(plan, read_on_ray(reading), options, pool)
    try:
        with report_silence(SilenceWatch("evaluating")) as silence:
            for block in scored.iter_batches(batch_size=None):
                silence.reset(time.monotonic())
                yield cast(LabelledScores, block)
    except RayError as error:
        raise WorkError(f"evaluation stopped: {explain_ray_error(error)}") from error
