from overlay.sources.own_output import own_output


def test_a_folder_in_which_a_command_has_only_begun_is_no_input() -> None:
    assert own_output([".overlay-lock"]) == "an output folder in use"
    assert own_output([f".overlay-lock-{'0' * 32}", "a.png"]) == "an output folder in use"
    assert own_output(["a.png", ".lock"]) is None
