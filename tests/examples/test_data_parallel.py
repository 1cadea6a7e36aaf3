"""The recipe for several devices learns, with the whole batch and with workers."""

import pytest

from examples import data_parallel


@pytest.mark.parametrize("method", ["whole", "ef21"])
def test_learns_digits(method, capsys):
    assert data_parallel.train(method, epochs=4) > 0.85
    assert capsys.readouterr().out.count("\n") == 4
