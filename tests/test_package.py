"""The wheel: complete, importable outside of the repository, light; and one version everywhere."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

import gradax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Folders at the root that are installed as parts of gradax.
FOLDERS = ("optimizers", "schedules", "federated")

# What must not be paid for by those who do not use it.
HEAVY = {
    *("chex", "datasets", "flax", "hypothesis", "matplotlib", "mlxtend", "networkx", "orbax"),
    *("dp_accounting", "pandas", "pytest", "rich", "scipy.stats", "sklearn", "tensorflow_datasets"),
}


def _run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _setuptools_is_recent():
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return int(version.partition(".")[0]) >= 77


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built through the source distribution, so that both are complete."""
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    # A copy: building leaves traces beside the sources, and tests run at the same time.
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gradax", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Needs the network only where the environment's own setuptools is too old.
    isolation = ["--no-isolation"] if _setuptools_is_recent() else []
    _run(sys.executable, "-m", "build", *isolation, "--outdir", folder, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment outside of the repository with the wheel and, besides, what it needs."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False, symlinks=True)
    binary = folder / "bin" / "python"
    ours = _run(binary, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    packages = pathlib.Path(ours.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A path entry, not a site folder: the editable install that lies there stays unknown.
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binary


def test_the_wheel_holds_every_source_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT) for path in (ROOT / "gradax").rglob("*.py")}
    for folder in FOLDERS:
        sources |= {
            pathlib.Path("gradax") / path.relative_to(ROOT)
            for path in (ROOT / folder).rglob("*.py")
        }
    assert {path.as_posix() for path in sources} <= names
    assert "gradax/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    top = {name.partition("/")[0] for name in names}
    assert top == {"gradax", f"gradax-{gradax.__version__}.dist-info"}


def test_an_installed_wheel_imports_every_public_name(python, tmp_path):
    public = {
        package.__name__: sorted(name for name in vars(package) if not name.startswith("_"))
        for package in (gradax, gradax.optimizers, gradax.schedules, gradax.federated)
    }
    # Modules such as gradax.testing are attributes only after somebody imported them.
    code = f"""
import importlib, pathlib, sys
import gradax
assert pathlib.Path(gradax.__file__).is_relative_to(sys.prefix), gradax.__file__
for package, names in {public!r}.items():
    module = importlib.import_module(package)
    for name in names:
        hasattr(module, name) or importlib.import_module(package + "." + name)
assert len(gradax.catalogue.entries()) == {len(gradax.catalogue.entries())}
print("all", len(gradax.catalogue.entries()))
"""
    assert _run(python, "-c", code, cwd=tmp_path).startswith("all")


def test_an_installed_wheel_has_a_command_line(python, tmp_path):
    assert "diffgrad" in _run(python, "-m", "gradax", "list", cwd=tmp_path)


def test_importing_gradax_loads_nothing_heavy_and_starts_no_backend(tmp_path):
    code = f"""
import sys
import gradax
print(sorted({HEAVY!r} & set(sys.modules)))
from jax._src import xla_bridge
print(bool(xla_bridge._backends))
"""
    heavy, started = _run(sys.executable, "-c", code, cwd=tmp_path).split("\n")[:2]
    assert heavy == "[]"
    assert started == "False"


def test_one_version_everywhere():
    version = PYPROJECT["project"]["version"]
    assert gradax.__version__ == version
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text()
