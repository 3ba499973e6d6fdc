"""What a library says of a file is one line, whatever the file made it say."""

import pytest

from shared.imaging.fault import MAX_CHARACTERS, fault


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Extent outside of the file (position 413)\n", "Extent outside of the file (position 413)"),
        ("bad tag\r\n\x1b[31mred\x00  twice", "bad tag [31mred twice"),
        ("\u202eright to left\u2028next line", "right to left next line"),
        ("\ud800", "OSError"),
        ("", "OSError"),
        ("x" * 1000, "x" * MAX_CHARACTERS),
    ],
)
def test_it_is_one_printable_line(said: str, told: str) -> None:
    assert fault(OSError(said)) == told
