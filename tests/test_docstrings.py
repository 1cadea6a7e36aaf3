"""Docstrings, README, reference pages, notebooks: examples run, and nothing is left out."""

import ast
import doctest
import functools
import importlib
import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import types

import pytest

import gradax
from gradax import catalogue

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (gradax, gradax.optimizers, gradax.schedules, gradax.federated)


def _modules():
    """All modules of the package; in an editable install the folders are not below gradax."""
    names = {gradax.__name__}
    for package in PACKAGES:
        names.add(package.__name__)
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names.update(module.name for module in found)
    return [importlib.import_module(name) for name in sorted(names)]


def _has_examples(module):
    return any(test.examples for test in doctest.DocTestFinder().find(module))


MODULES = _modules()


@pytest.mark.parametrize("module", list(filter(_has_examples, MODULES)), ids=lambda m: m.__name__)
def test_examples_of_a_module(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_examples_of_the_readme():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 10


# Public names ----------------------------------------------------------------------------


def _public(namespace):
    """Public names of a package or module: what it says itself, without what it imports."""
    for name, value in sorted(vars(namespace).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, types.ModuleType):
            # A room is no public name: its names stand in the package.
            if _is_public_module(namespace, name, value):
                yield from _public(value)
        elif callable(value) and (_is_ours(value, namespace) or _is_reexport(value, namespace)):
            yield f"{namespace.__name__}.{name}", value


def _is_public_module(namespace, name, module):
    if not module.__name__.startswith("gradax."):
        return False
    # Only what an __init__ re-exports on purpose, "from . import axis as axis".
    return f" {name} as {name}" in inspect.getsource(namespace)


def _is_ours(value, namespace):
    module = getattr(value, "__module__", "") or ""
    if hasattr(namespace, "__path__"):
        return module.startswith("gradax")
    shown = module.startswith("gradax") and value.__name__ in _shown_again(namespace)
    return module == namespace.__name__ or shown


@functools.cache
def _shown_again(module):
    """Names that a module imports in order to offer them: ``from ._x import y as y``."""
    imports = [
        n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.ImportFrom)
    ]
    return {alias.name for n in imports for alias in n.names if alias.name == alias.asname}


def _is_reexport(value, namespace):
    return hasattr(namespace, "__path__") and any(
        value is entry.factory for entry in catalogue.entries() if entry.reexport_of
    )


testing = importlib.import_module("gradax.testing")
PUBLIC = dict([*_public(gradax), *_public(testing)])
FUNCTIONS = {name: f for name, f in PUBLIC.items() if inspect.isfunction(f) and _is_ours(f, gradax)}
CLASSES = {name: c for name, c in PUBLIC.items() if inspect.isclass(c)}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_public_function_explains_itself(name):
    function = FUNCTIONS[name]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    summary = text.partition("\n")[0]
    assert summary.endswith("."), "the first line is a sentence"
    assert len(summary) <= 100
    if len(signature.parameters) > 1:
        for parameter in signature.parameters.values():
            assert re.search(rf"^  \*{{0,2}}{parameter.name}:", text, re.MULTILINE), parameter.name
    if signature.return_annotation is not None:
        assert re.search(r"^(Returns|Yields):|^Returns ", text, re.MULTILINE)


@pytest.mark.parametrize("name", list(CLASSES))
def test_a_public_class_explains_its_fields(name):
    text = inspect.getdoc(CLASSES[name]) or ""
    assert text.partition("\n")[0].endswith(".")
    for field in getattr(CLASSES[name], "_fields", ()) if "Args:" not in text else ():
        assert re.search(rf"^  {field}:", text, re.MULTILINE), field


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.name)
def test_a_method_of_the_catalogue_shows_its_use_and_names_its_paper(entry):
    if entry.reexport_of:
        return
    text = inspect.getdoc(entry.factory)
    assert "Examples:" in text
    assert ">>>" in text
    assert entry.paper.link is None or entry.paper.link in text


# Pages -----------------------------------------------------------------------------------


def _documented():
    """Dotted names in the autosummary tables of the reference pages."""
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        module, inside = "", False
        for line in page.read_text().splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = found[1]
            if not line.startswith(" ") and line:
                inside = line.startswith(".. autosummary::")
            elif inside and re.fullmatch(r"   [\w.]+", line):
                yield f"{module}.{line.strip()}"


def _resolve(name):
    return pkgutil.resolve_name(name)


def test_every_public_name_stands_in_the_reference():
    documented = [_resolve(name) for name in _documented()]
    whole = [value for value in documented if isinstance(value, types.ModuleType)]
    missing = [
        name
        for name, value in PUBLIC.items()
        if not any(value is known for known in documented)
        and not any(name.startswith(f"{module.__name__}.") for module in whole)
    ]
    assert not missing


def test_the_table_of_the_readme_is_that_of_the_catalogue():
    path = ROOT / "docs" / "_ext" / "methods_table.py"
    spec = importlib.util.spec_from_file_location("methods_table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    text = (ROOT / "README.md").read_text()
    assert table.renew(text) == text, "run docs/_ext/methods_table.py"
    assert all(f"`{entry.name}`" in text for entry in catalogue.entries())


# Notebooks -------------------------------------------------------------------------------


def _check_notebooks(*arguments):
    command = [sys.executable, str(ROOT / ".ci" / "notebooks.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_notebooks_are_committed_without_outputs():
    assert _check_notebooks().stderr == ""


def test_a_notebook_with_outputs_is_refused_and_can_be_stripped(tmp_path):
    path = tmp_path / "seen.ipynb"
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    cell = {
        "cell_type": "code",
        "id": "a",
        "metadata": {"execution": {}, "tags": ["hide-input"]},
        "execution_count": 3,
        "outputs": [output],
        "source": ["print(1)"],
    }
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4}))
    refused = _check_notebooks(path)
    assert refused.returncode == 1
    assert "seen.ipynb" in refused.stderr
    assert _check_notebooks("--fix", path).returncode == 1
    assert _check_notebooks(path).returncode == 0
    kept = json.loads(path.read_text())["cells"][0]
    assert (kept["source"], kept["outputs"]) == (["print(1)"], [])
    assert kept["metadata"] == {"tags": ["hide-input"]}
