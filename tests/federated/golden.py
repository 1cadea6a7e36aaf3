"""Golden cases for the tests of this folder: reading them and comparing with a replay."""

import json
import pathlib

import numpy as np

from tests.golden.replays_decentralized import REPLAYS, TOLERANCES

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def golden_cases(name):
    """The cases of a golden file."""
    return json.loads((_GOLDEN / f"{name}.json").read_text())["cases"]


def assert_follows(name, case):
    """The replay of a case returns what the case records."""
    replayed = REPLAYS[name](case)
    assert replayed
    _assert_equal(replayed, {key: case[key] for key in replayed}, TOLERANCES[name])


def _assert_equal(actual, expected, rtol):
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for name in expected:
            _assert_equal(actual[name], expected[name], rtol)
    elif isinstance(expected, list) and isinstance(expected[0], dict):
        for left, right in zip(actual, expected, strict=True):
            _assert_equal(left, right, rtol)
    else:
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-12)
