"""The catalogue: registering, finding, and that nothing public is left out."""

import importlib
import inspect

import optax
import pytest

import gradax
from gradax import catalogue, federated, optimizers, schedules

PAPER = catalogue.Paper("A made-up method", "Nobody et al.", 2020, arxiv="2001.00001")
ENTRIES = catalogue.entries()

#: Public functions that return a transformation but are parts of the mechanism, not methods.
MECHANISM = {
    "as_transformation",
    "make_monitor",
    "peers",
    "scale_by_round_rate",
    "skip_nonfinite",
    "track_mean_gradient",
}


@pytest.fixture(autouse=True)
def _a_catalogue_of_its_own(monkeypatch):
    monkeypatch.setattr(catalogue, "_ENTRIES", dict(catalogue._ENTRIES))


def made_up(learning_rate, b1=0.9):
    """Does nothing new.

    Second paragraph.
    """
    return optax.sgd(learning_rate, b1)


made_up.__module__ = "gradax.optimizers.adaptive._made_up"


def test_registering_reads_everything_from_the_factory():
    enter = catalogue.register(
        "alias", PAPER, needs=("value",), example={"learning_rate": 0.1}, exceptions={"a": "b"}
    )
    assert enter(made_up) is made_up
    entry = catalogue.get("made_up")
    assert entry.factory is made_up
    assert (entry.package, entry.room, entry.kind) == ("optimizers", "adaptive", "alias")
    assert entry.summary == "Does nothing new."
    assert entry.public_name == "gradax.optimizers.made_up"
    assert entry.needs == ("value",)
    assert dict(entry.example) == {"learning_rate": 0.1}
    assert dict(entry.exceptions) == {"a": "b"}
    assert entry.reexport_of is None
    assert entry in catalogue.entries("optimizers", frozenset({"alias"}))
    assert entry not in catalogue.entries("schedules")


def test_an_entry_cannot_be_changed():
    entry = catalogue.get("diffgrad")
    with pytest.raises(AttributeError):
        entry.name = "other"
    with pytest.raises(TypeError):
        entry.example["learning_rate"] = 1.0


def test_reexport_keeps_the_original_and_its_name():
    module = "gradax.optimizers.adaptive"
    factory = catalogue.reexport(optax.yogi, "optax.yogi", module, "alias", PAPER)
    assert factory is optax.yogi
    entry = catalogue.get("yogi")
    assert (entry.reexport_of, entry.room) == ("optax.yogi", "adaptive")
    assert entry.summary


def test_make_overrides_the_example():
    catalogue.register("alias", PAPER, example={"learning_rate": 0.5})(made_up)
    grads = {"w": 1.0}
    for learning_rate, entry_tx in (
        (0.5, catalogue.get("made_up").make()),
        (0.25, catalogue.get("made_up").make(learning_rate=0.25)),
    ):
        updates, _ = entry_tx.update(grads, entry_tx.init(grads))
        assert float(updates["w"]) == -learning_rate


def test_refuses_a_name_twice():
    catalogue.register("alias", PAPER)(made_up)
    with pytest.raises(ValueError, match="'made_up' is registered already"):
        catalogue.register("alias", PAPER)(made_up)


def test_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match=r"kind must be one of .*'alias'.*got 'optimizer'"):
        catalogue.register("optimizer", PAPER)(made_up)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("difgrad", r"no method 'difgrad' in the catalogue; did you mean 'diffgrad'"),
        ("zzzzzz", r"no method 'zzzzzz' in the catalogue\.$"),
    ],
)
def test_an_unknown_name_is_an_error_with_suggestions(name, message):
    with pytest.raises(ValueError, match=message):
        catalogue.get(name)


def test_paper_links():
    assert PAPER.link == "https://arxiv.org/abs/2001.00001"
    assert str(PAPER) == "Nobody et al., A made-up method, 2020, arXiv 2001.00001"
    elsewhere = catalogue.Paper("T", "A", 1999, url="https://example.org/t")
    assert elsewhere.link == "https://example.org/t"
    assert str(elsewhere) == "A, T, 1999"
    assert catalogue.Paper("T", "A", 1999).link is None


def test_entries_are_sorted_and_named_once():
    keys = [(entry.package, entry.room, entry.name) for entry in ENTRIES]
    assert keys == sorted(keys)
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_public_described_and_has_a_source(entry):
    module, _, name = entry.public_name.rpartition(".")
    assert getattr(importlib.import_module(module), name) is entry.factory
    room = importlib.import_module(f"{module}.{entry.room}")
    assert getattr(room, name) is entry.factory
    assert entry.summary
    assert entry.paper.title
    assert entry.paper.authors
    assert 1700 <= entry.paper.year <= 2100


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_example_fits_the_signature(entry):
    parameters = inspect.signature(entry.factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert takes_any or set(entry.example) <= set(parameters)


@pytest.mark.parametrize(
    "entry",
    catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS | {"algorithm"}),
    ids=lambda entry: entry.name,
)
def test_every_example_builds_what_its_kind_promises(entry):
    made = entry.make()
    if entry.kind == "algorithm":
        assert isinstance(made, gradax.federated.Algorithm)
    else:
        assert isinstance(made, optax.GradientTransformation)


@pytest.mark.parametrize("package", [optimizers, schedules, federated], ids=lambda p: p.__name__)
def test_every_public_method_is_in_the_catalogue(package):
    registered = {id(entry.factory) for entry in ENTRIES}
    for name, value in vars(package).items():
        if name.startswith("_") or name in MECHANISM or not inspect.isfunction(value):
            continue
        promised = inspect.signature(value).return_annotation
        is_method = inspect.isclass(promised) and issubclass(
            promised, optax.GradientTransformation | federated.Algorithm
        )
        if is_method or name.endswith("_schedule") or name.startswith("scale_by_"):
            if name in ("load_schedule_table", "refine_schedule", "scale_schedule"):
                continue  # Work on schedules and tables of them.
            assert id(value) in registered, f"{name} is public and not in the catalogue"
