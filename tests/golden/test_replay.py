"""Every case of every golden file, at the tolerance of its method."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("replay", FOLDER / "replay.py")
replay = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(replay)


def _cases():
    for path in sorted(FOLDER.glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text())["cases"]):
            name = case.get("name", number)
            yield pytest.param(path.stem, case, id=f"{path.stem}-{name}")


def _compare(found, expected, rtol, where=""):
    """Compares nested dictionaries and lists of numbers and names, key by key."""
    if isinstance(expected, dict):
        assert found.keys() <= expected.keys(), f"{where}: {found.keys() - expected.keys()}"
        for key in found:
            _compare(found[key], expected[key], rtol, f"{where}.{key}")
    elif isinstance(expected, list) and not _is_array(expected):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            _compare(*pair, rtol, f"{where}[{number}]")
    elif isinstance(expected, str):
        assert found == expected, where
    else:
        scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale, err_msg=where)


def _is_array(rows):
    """Whether nested lists are a rectangle of numbers."""
    try:
        return np.asarray(rows).dtype.kind in "biuf"
    except ValueError:
        return False


@pytest.mark.parametrize(("method", "case"), list(_cases()))
def test_equals_the_recorded_case(method, case):
    found = replay.REPLAYS[method](case)
    assert found, "a replay must return something to compare"
    tolerance = replay.TOLERANCES.get(method, 1e-9)
    _compare(found, case, tolerance(case) if callable(tolerance) else tolerance)


def test_every_file_has_a_replay_and_every_replay_a_file():
    assert set(replay.REPLAYS) == {path.stem for path in FOLDER.glob("*.json")}
