import csv
import io

from overlay.storage.csv_text import format_csv


def test_formulas_are_texts_and_numbers_are_numbers() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://h","x")']
    (read,) = csv.reader(io.StringIO(format_csv([texts]), newline=""))
    assert read == [f"'{text}".replace("\r", " ") for text in texts]
    assert format_csv([["benign", -1.5, 3, "", None, "a=b", "'x", 'a"b'], ["x"]]) == (
        'benign,-1.5,3,,,a=b,\'x,"a""b"\nx\n'
    )
