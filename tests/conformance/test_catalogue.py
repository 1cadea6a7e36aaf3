"""Every transformation of the catalogue passes every check that applies to it."""

import pytest

from gradax import catalogue, testing

CELLS = testing.cells()


def _param(cell):
    # One worker per entry: its checks share what has been compiled.
    marks = [pytest.mark.xdist_group(cell.entry)]
    if cell.reason is not None:
        # Strict: an exception that is no longer needed fails.
        marks.append(pytest.mark.xfail(reason=cell.reason, strict=True))
    return pytest.param(cell, id=f"{cell.entry}-{cell.check}", marks=marks)


@pytest.mark.parametrize("cell", [_param(cell) for cell in CELLS])
def test_conforms(cell):
    testing.CHECKS[cell.check](testing.subject(cell.entry))


def test_every_transformation_is_tested():
    tested = {cell.entry for cell in CELLS}
    listed = catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS)
    assert tested == {entry.name for entry in listed}


def test_at_most_two_percent_are_exceptions():
    excepted = [cell for cell in CELLS if cell.reason and cell.check != "complex_kept"]
    assert len(excepted) <= 0.02 * len(CELLS), excepted


def test_every_exception_gives_a_reason_for_a_check_that_exists():
    for entry in catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS):
        assert set(entry.exceptions) <= set(testing.CHECKS)
        assert all(len(reason.split()) >= 3 for reason in entry.exceptions.values())


def test_peer_specs_build_every_optimizer():
    specs = testing.peer_specs()
    assert len({spec.name for spec in specs}) == len(specs)
    aliases = {entry.name for entry in catalogue.entries(kinds=frozenset({"alias"}))}
    assert aliases <= {spec.name for spec in specs}
    for spec in specs:
        assert spec.make().init({"w": [1.0]}) is not None
        assert spec.factory is catalogue.get(spec.name).factory
