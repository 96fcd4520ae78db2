from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster import session
from cluster.nodes import NodeSize, Resources
from overlay.config import Input, Loop, Train
from overlay.errors import RequestError
from overlay.training.run_folder import RunFacts
from pipelines.runtime.placement import Placement
from pipelines.training import run_facts
from pipelines.training.run_facts import apply_facts, decide_facts
from pipelines.training.setup import TrainingSetup

PLACEMENT = Placement("cpu", least_workers=1, most_workers=3, worker_cpus=1.0)
FACTS = RunFacts(batch_size=16, precision="bf16", order="memory", engine="torch", device="cpu", workers=3)


def setup(loop: Loop) -> TrainingSetup:
    """A setup of 300 images, of which nothing but the options, the counts and the placement is there."""
    nothing = cast(Any, None)
    dataset = cast(Any, SimpleNamespace(card=SimpleNamespace(counts={"a": {"train": 200, "val": 100, "test": 9}})))
    config = Train(dataset="d", out="o", input=Input(size=32), train=loop)
    return TrainingSetup(config, dataset, nothing, nothing, PLACEMENT)


@pytest.mark.parametrize(
    ("store", "loop", "bf16", "facts"),
    [
        (2 * 300 * 32 * 32 * 3, Loop(batch_size=16), True, FACTS),
        (2 * 300 * 32 * 32 * 3 - 1, Loop(batch_size=16), True, replace(FACTS, order="windowed")),
        (10**9, Loop(batch_size=16), False, replace(FACTS, precision="fp32")),
        (10**9, Loop(batch_size="auto", precision="bf16"), False, replace(FACTS, batch_size=32)),
        (10**9, Loop(batch_size=16, compile=True), True, replace(FACTS, engine="torch.compile")),
    ],
)
def test_what_depends_on_the_machine_is_decided_once(
    store: int, loop: Loop, bf16: bool, facts: RunFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "resources", lambda: Resources((NodeSize(2, store_bytes=store),)))
    monkeypatch.setattr(run_facts, "has_bf16", lambda _: bf16)
    assert decide_facts(setup(loop)) == facts


def test_a_resumed_run_keeps_its_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_facts, "has_bf16", lambda _: False)
    assert apply_facts(setup(Loop()), FACTS).config.train.precision == "bf16"
    assert capsys.readouterr().out == ""
    assert apply_facts(setup(Loop()), replace(FACTS, device="cuda")).config.train.precision == "bf16"
    assert capsys.readouterr().out.splitlines() == [
        "begun on cuda and resumed on cpu: the last digits of the results differ",
        "the run's precision is bf16, which this cpu has no instructions for: it is slow here",
    ]


def test_what_this_machine_cannot_go_on_with_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^the run was begun in fp16, which needs a GPU; resume it on one"):
        apply_facts(setup(Loop()), replace(FACTS, precision="fp16", device="cuda"))
