"""Clients that are people: users of a table, speakers of plays."""

import tarfile
import zipfile

import numpy as np
import pytest

from gradax.federated import data
from gradax.federated.data._speakers import speeches

PLAY = """The Tragedy of Nobody

SCENE I. A heath.

[Enter two persons.]

DUNCAN.
What man is that? [Aside.] He
can report.

FIRST WITCH.
I come.

Exeunt.

  Bar. Long live the king
  Fran. He said:
Duncan.

FIRST WITCH:
Hail.\r
"""


def test_speeches_begin_with_a_name_and_end_with_an_empty_line():
    assert speeches(PLAY) == [
        ("duncan", "What man is that?  He\ncan report."),
        ("first witch", "I come."),
        ("bar", "Long live the king"),
        ("fran", "He said:\nDuncan."),
        ("first witch", "Hail."),
    ]


def write(path, kind):
    """The same two plays in each kind of place; and a file that is not wanted."""
    files = {"a/one_gut.txt": PLAY, "a/two_gut.txt": PLAY, "a/notes.txt": "Nothing."}
    if kind == "folder":
        for name, text in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        return path
    if kind == "zip":
        with zipfile.ZipFile(path / "plays.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return path / "plays.zip"
    write(path, "folder")
    with tarfile.open(path / "plays.tar.gz", "w:gz") as archive:
        archive.add(path / "a", "a")
    return path / "plays.tar.gz"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_every_speaker_of_every_play_is_a_user(tmp_path, kind):
    text = data.load_plays(write(tmp_path, kind), length=8, pattern="*_gut.txt")
    # "bar" says 18 characters, "duncan" 33, "fran" 15, the witch 13 with a line break between.
    speakers = ("bar", "duncan", "first witch", "fran")
    assert text.names == tuple(f"{play}_gut: {who}" for play in ("one", "two") for who in speakers)
    assert np.bincount(text.users).tolist() == [2, 4, 1, 1] * 2
    assert text.examples["x"].shape == text.examples["y"].shape == (16, 8)
    assert text.examples["x"].dtype == np.int32
    np.testing.assert_array_equal(text.examples["x"][:, 1:], text.examples["y"][:, :-1])
    read = lambda row: "".join(text.alphabet[place] for place in row)
    assert [read(row) for row in text.examples["x"][:2]] == ["Long liv", "e the ki"]
    assert read(text.examples["y"][0]) == "ong live"
    parts = data.partition_by_user(text.users, min_size=2)
    assert [len(part) for part in parts] == [2, 4, 2, 4]
    clients = data.padded(text.examples, parts)
    assert clients.counts.tolist() == [2, 4, 2, 4]


def test_one_text_needs_no_folder_and_short_speakers_are_left_out(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(PLAY)
    text = data.load_plays(path, length=14)
    assert text.names == ("play: bar", "play: duncan", "play: fran")


@pytest.mark.parametrize("users", [[3, 1, 3, 3], np.array(["b", "a", "b", "b"])])
def test_users_are_taken_in_order_of_their_names(users):
    assert [part.tolist() for part in data.partition_by_user(users)] == [[1], [0, 2, 3]]
    assert [part.tolist() for part in data.partition_by_user(users, 2)] == [[0, 2, 3]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: data.partition_by_user([]), "users must be a vector"),
        (lambda path: data.partition_by_user([[1]]), "users must be a vector"),
        (lambda path: data.partition_by_user([1], 0), "min_size must be an integer >= 1"),
        (lambda path: data.partition_by_user([1, 2, 2], 3), "nobody has min_size=3 examples"),
        (lambda path: data.load_plays(path, 0), "length must be an integer >= 1"),
        (lambda path: data.load_plays(path, 99), "nobody in .* says more than 99 characters"),
    ],
)
def test_bad_input_is_refused(call, message, tmp_path):
    (tmp_path / "play.txt").write_text(PLAY)
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_missing_files_are_named(where, tmp_path):
    with pytest.raises(FileNotFoundError, match="load_plays: "):
        data.load_plays(tmp_path / where, pattern="*.md")
