"""Shared set-up: eight forced host devices, and a compilation cache that outlives a run."""

import gc
import itertools
import os
import pathlib

# Tests compile much and run little: LLVM's optimization costs more than it saves, and the newer
# code generator of fusions takes twice as long as the older one. What XLA itself does to a
# program, fusions and copies for instance, stays as it is.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
)
# Threads for XLA. A program over eight devices holds eight of them until all have met; with no more
# than that, a second one that starts meanwhile can keep the first from its last.
os.environ.setdefault("NPROC", "32")

import chex
import jax
import pytest

_CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
# Collectives of eager calls can wait for each other for ever on few cores.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
# Small programs too: the two workers compile the same ones.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    """chex counts traces per function name, for the whole process."""
    chex.clear_trace_counter()


_modules = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_functions():
    """Compiled functions of thousands of tests would fill the memory; those of a few are shared."""
    yield
    if next(_modules) % 8 == 0:
        jax.clear_caches()


#: Modules whose tests share nothing, or say themselves what they share.
_APART = ("test_replay.py", "test_docstrings.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One worker per module: its tests share what has been compiled and computed."""
    for item in items:
        grouped = item.get_closest_marker("xdist_group") or item.path.name in _APART
        if not grouped:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish():
    """What has been imported and collected stays; the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
