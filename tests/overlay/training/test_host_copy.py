import io

import torch

from overlay.models.device_copy import CopyStream
from overlay.training.host_copy import HostCopies


def test_a_copy_has_the_values_types_and_strides_of_the_state_and_stays() -> None:
    weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    state = {"weight": weight, "steps": [torch.tensor(3), torch.arange(4)], "none": torch.zeros(0, 2), "rate": 0.5}
    expected = weight.clone()
    copied = HostCopies(CopyStream()).copy(state).wait()
    weight += 1  # the training goes on
    assert torch.equal(copied["weight"], expected)
    assert copied["weight"].stride() == weight.stride()
    assert [each.tolist() for each in copied["steps"]] == [3, [0, 1, 2, 3]]
    assert copied["none"].shape == (0, 2)
    assert copied["rate"] == 0.5


def test_the_memory_is_used_again_for_a_state_of_the_same_size() -> None:
    copies = HostCopies(CopyStream())
    first = copies.copy([torch.rand(1000), torch.rand(24)]).wait()
    second = copies.copy([torch.rand(512), torch.rand(512)]).wait()
    assert second[0].data_ptr() == first[0].data_ptr()
    assert copies.copy([torch.rand(1025)]).wait()[0].numel() == 1025


def test_all_tensors_of_one_type_are_saved_as_one_storage() -> None:
    written = io.BytesIO()
    copied = HostCopies(CopyStream()).copy({str(number): torch.rand(100) for number in range(50)}).wait()
    torch.save(copied, written)
    assert copied["49"].untyped_storage().nbytes() == 50 * 400
    assert len(written.getvalue()) < 1.5 * 50 * 400  # each on its own takes twice as much
