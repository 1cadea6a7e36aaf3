"""The examples of the reference page run, and what they read is what training did."""

import pathlib
import re

import numpy as np

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "api" / "monitors.md"


def test_examples_of_the_page(capsys):
    names = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in printed] == [
        "directional_sharpness",
        "predicted_change",
        "concentration",
        "gradient_snr",
    ]
    assert all(np.isfinite(float(line.partition(" ")[2])) for line in printed)
    # Ten records of ten steps each.
    assert len(np.unique(names["history"])) == 10
