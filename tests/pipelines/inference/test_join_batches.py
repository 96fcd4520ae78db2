import numpy as np

from pipelines.inference.join_batches import join_batches


def test_batches_are_joined_to_a_size() -> None:
    batches = [{"row": np.arange(n), "text": np.array([str(n)] * n)} for n in (2, 1, 4, 1, 1)]
    joined = list(join_batches(batches, rows=3))
    assert [batch["row"].tolist() for batch in joined] == [[0, 1, 0], [0, 1, 2, 3], [0, 0]]
    assert [batch["text"].tolist() for batch in joined] == [["2", "2", "1"], ["4"] * 4, ["1", "1"]]
    assert joined[1] is batches[2]
    assert list(join_batches([], rows=3)) == []
