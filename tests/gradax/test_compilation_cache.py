"""Where compiled programs are kept, and what is respected."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import gradax


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_directory_of_ones_own(tmp_path):
    assert gradax.use_compilation_cache(tmp_path / "new" / "one") == tmp_path / "new" / "one"
    assert (tmp_path / "new" / "one").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "new" / "one")


def test_jax_was_given_one_already(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADAX_COMPILATION_CACHE", str(tmp_path / "other"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert gradax.use_compilation_cache() == tmp_path
    assert not (tmp_path / "other").exists()
    assert gradax.use_compilation_cache(tmp_path / "asked") == tmp_path / "asked"


@pytest.mark.parametrize("word", ["off", "0", "OFF"])
def test_switched_off(monkeypatch, word):
    monkeypatch.setenv("GRADAX_COMPILATION_CACHE", word)
    assert gradax.use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_default_places(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADAX_COMPILATION_CACHE", str(tmp_path / "named"))
    assert gradax.use_compilation_cache() == tmp_path / "named"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("GRADAX_COMPILATION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert gradax.use_compilation_cache() == tmp_path / "gradax" / "jax"


def test_a_file_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"directory=.*file.* cannot be made"):
        gradax.use_compilation_cache(tmp_path / "file")
    monkeypatch.setenv("GRADAX_COMPILATION_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot be made"):
        assert gradax.use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_what_was_compiled_is_kept(tmp_path):
    gradax.use_compilation_cache(tmp_path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 3.25 - 1.5)(2.0)
    assert any(tmp_path.iterdir())
