"""The demo, small: every part runs, the table and the figure appear."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_small(demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "ATTACKS", {"sign flip": demo.ATTACKS["sign flip"]})
    sizes = ["--epochs", "1", "--rounds", "4", "--node-rounds", "2"]
    figure = tmp_path / "demo.png"
    curves, histories, nodes = demo.main([*sizes, "--figure", str(figure)])
    assert set(curves) == {"optax.adam", "gradax chain"}
    assert [len(history) for history in histories.values()] == [4, 4, 4]
    assert set(nodes) == {("plain averaging", "sign flip"), ("MoNNA", "sign flip")}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "FedSpeed" in capsys.readouterr().out
