"""The array's facts, and closing its gaps. test_preprocess.py tries it as a whole."""

import numpy as np
import pytest

from dcgan.common.console import Bar
from dcgan.pictures import array

WANTED = {"version": 1, "crop": "none", "filter": "box", "fingerprint": "a"}
FACTS = {**WANTED, "count": 5, "limit": 0}


@pytest.mark.parametrize(
    ("facts", "images", "reason"),
    [
        (FACTS, 0, ""),
        (FACTS, 9, ""),
        ({**FACTS, "source": "elsewhere"}, 0, ""),
        ({**FACTS, "limit": 5}, 5, ""),
        ({}, 0, "it is unfinished or damaged"),
        ({**FACTS, "limit": 5}, 6, "it holds 5 pictures, and 6 are wanted"),
        ({**FACTS, "limit": 5}, 0, "it holds 5 pictures, and all are wanted"),
        ({**FACTS, "fingerprint": "b"}, 0, "its source has changed"),
        ({**FACTS, "filter": "b"}, 0, "its faces are resized differently"),
        # The old array is kept where the source alone is another
        (
            {**FACTS, "fingerprint": "b", "crop": "b"},
            0,
            "its faces are cropped differently",
        ),
    ],
)
def test_an_array_is_made_again_for_a_reason(facts, images, reason):
    assert array.mismatch(facts, WANTED, images) == reason


def test_gaps_are_closed_and_the_file_is_read_by_numpy(tmp_path, capsys):
    path, face = tmp_path / "a.npy", 2 * 2 * 3
    begin = len(array.header(0, (2, 2, 3)))
    faces = [bytes([number] * face) for number in range(4)]
    gap = bytes(face)
    path.write_bytes(
        array.header(0, (2, 2, 3)) + faces[0] + gap + b"".join(faces[1:]) + gap
    )
    filled = ((0, 1, 1), (2, 3, 1))  # the place, faces, unreadable ones of each job
    results = ((begin + at * face, n * face, [("x", "y")] * m) for at, n, m in filled)
    with Bar(disable=True) as bar:
        facts = array.join(path, results, (2, 2, 3), 0, bar)
    joined = np.load(path)
    assert joined.tobytes() == b"".join(faces)
    assert (facts["count"], facts["skipped"], facts["limit"]) == (4, 2, 0)
    assert facts["bytes"] == path.stat().st_size
    assert facts["checksum"] == array.checksum_of_first(path, 4)
    assert "Skipped 2 unreadable pictures. x: y; x: y." in capsys.readouterr().out
