from pathlib import Path

import pytest

from overlay.cli.main import main
from overlay.config.credentials import check_no_credentials, find_credentials, hide_credentials
from overlay.errors import RequestError

SECRET = "wJalrXUtnFEMI"
WITH_CREDENTIALS = {
    f"s3://AKIA:{SECRET}@bucket/x": "an account before the host",
    f"s3://AKIA:{SECRET}/K7M@bucket/x": "an account before the host",
    f"s3://{SECRET}@bucket/x": "an account before the host",
    f"https://user:{SECRET}@host:8080/x.pth": "an account before the host",
    f"http://user:{SECRET}@head:8265": "an account before the host",
    f"s3://b/x?endpoint_override=key:{SECRET}@host:9000&scheme=http": "an account before the host",
    f"s3://b/x?endpoint_override=http://key:{SECRET}@host": "an account before the host",
    f"https://b.s3.amazonaws.com/x.pth?X-Amz-Date=1&X-Amz-Signature={SECRET}": "X-Amz-Signature",
    f"https://b.s3.amazonaws.com/x.pth?AWSAccessKeyId={SECRET}": "AWSAccessKeyId",
    f"https://storage.googleapis.com/b/x?X-Goog-Signature={SECRET}": "X-Goog-Signature",
    f"https://a.blob.core.windows.net/c/x?sv=2022-11-02&sp=r&sig={SECRET}": "sig",
    f"https://h/x#access_token={SECRET}": "access_token",
    f"s3://b/x?access_key={SECRET}": "access_key",
    f"s3://b/x?region=eu&secret_key={SECRET}": "secret_key",
    f"s3://b/x?session_token={SECRET}": "session_token",
    f"https://h/x%3FX%2DAmz%2DSignature%3D{SECRET}": "X-Amz-Signature",
    f"s3://AKIA%3A{SECRET}%40bucket/x": "an account before the host",
    f"/data,s3://b/x?secret_key={SECRET}": "secret_key",
}
WITHOUT = (
    "s3://bucket/a@b.png",
    "s3://bucket/a:b@c.png",
    "s3://bucket/x?endpoint_override=localhost:9000&scheme=http",
    "gs://anonymous@bucket/x",
    "http://head:8265",
    "http://[::1]:8265/x",
    "https://host/resnet-token=1/x.pth",
    "https://host/x.pth?download=true",
    "/data/a@b/x?token=1",
    "x:y@z",
    "labels.csv:signature",
)


@pytest.mark.parametrize("text", WITH_CREDENTIALS)
def test_credentials_are_found_and_hidden(text: str) -> None:
    assert find_credentials(text) == WITH_CREDENTIALS[text]
    hidden = hide_credentials(text)
    assert SECRET not in hidden
    assert "***" in hidden


@pytest.mark.parametrize("text", WITHOUT)
def test_other_addresses(text: str) -> None:
    assert find_credentials(text) is None
    assert hide_credentials(text) == text


def test_sections_and_lists() -> None:
    check_no_credentials("", {"a": [1, None, "s3://b"], "b": {"c": True}})
    with pytest.raises(RequestError, match=r"^b\.c has credentials in an address \(secret_key\); it would be written"):
        check_no_credentials("", {"a": 1, "b": {"c": ["x", f"s3://b?secret_key={SECRET}"]}})


ADDRESS = f"s3://AKIA:{SECRET}@bucket/x"
COMMANDS: tuple[tuple[list[str], str], ...] = (
    (["prepare", ADDRESS, "--out", "o"], "an argument"),
    (["prepare", "x", "--out", ADDRESS], "--out"),
    (["train", "d", "--out", "o", f"--model.weights=https://h/x?sig={SECRET}"], "--model.weights"),
    (["evaluate", "m", ADDRESS, "--out", "o"], "an argument"),
    (["predict", "m", "x", ADDRESS, "y", "--out", "o"], "an argument"),
    (["predict", "m", "x", "--allow_root", f"/a,{ADDRESS}", "--out", "o"], "--allow_root"),
    (["compare", "d", "m", ADDRESS, "--out", "o"], "an argument"),
    (["export", ADDRESS], "an argument"),
    (["demo", "--out", ADDRESS], "--out"),
    (["demo", ADDRESS], "an argument"),
    (["demo", "--nothing", ADDRESS], "--nothing"),
    (["train", "d", "--train.epochs", ADDRESS], "--train.epochs"),
    (["submit", "--address", f"http://u:{SECRET}@127.0.0.1:9", "--", "demo"], "--address"),
    (["submit", "--address", "http://127.0.0.1:9", "--", "predict", "m", ADDRESS, "--out", "/o"], "an argument"),
)


@pytest.mark.parametrize(("words", "name"), COMMANDS)
def test_every_verb_refuses_them(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert f"{name} has credentials in an address (" in said.err
    assert "AWS_ACCESS_KEY_ID" in said.err
    assert SECRET not in said.err + said.out


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (f"out: {ADDRESS}", r"options.yaml, line 2, has credentials"),
        (f"nothing: {ADDRESS}", r"options.yaml, line 2, has credentials"),
        (f'out: "s3://{SECRET}\\x40bucket/x"', "out has credentials"),
    ],
)
def test_files_of_options(tmp_path: Path, line: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text(f"sources: [x]\n{line}\n")
    assert main(["prepare", "--config", str(tmp_path / "options.yaml")]) == 2
    said = capsys.readouterr().err
    assert place in said
    assert SECRET not in said
    assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"]
