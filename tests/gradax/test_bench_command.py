"""``gradax bench`` and what the benchmarks share: records, collected files, comparisons."""

import json
import subprocess
import sys

import pytest

from gradax import _bench_command
from gradax.__main__ import main
from tests.gradax.benches import BENCHMARKS, imported

MODULES = ("_measure", "environments", "_collected", "_compare", "run")


@pytest.fixture(scope="module")
def benches():
    with imported(*MODULES) as modules:
        yield modules


def figure(what, *values, better="lower"):
    median = sorted(values)[len(values) // 2]
    extremes = {"least": min(values), "greatest": max(values), "turns": len(values)}
    return {"what": what, "median": median, "better": better, **extremes}


def report(name, *figures, jax="0.10.2", cores=2, goals=()):
    return {
        "name": name,
        "ratios": list(figures),
        "goals": list(goals),
        "versions": {"python": "3.11.7", "jax": jax, "gradax": "0.1.0"},
        "peer_versions": {},
        "machine": {"processor": "p", "cores": cores, "load_average": 0.5},
    }


def saved(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        pytest.param((0.5, 0.51, 0.52), (0.7, 0.71, 0.72), "slower", id="slower"),
        pytest.param((0.7, 0.71, 0.72), (0.5, 0.51, 0.52), "faster", id="faster"),
        pytest.param((0.5, 0.51, 0.72), (0.7, 0.71, 0.72), "same", id="spreads overlap"),
        pytest.param((0.5, 0.51, 0.52), (0.53, 0.535, 0.54), "same", id="within the tolerance"),
        pytest.param((0,), (3,), "slower", id="from nothing"),
        pytest.param((3,), (0,), "faster", id="to nothing"),
        pytest.param((0,), (0,), "same", id="nothing"),
        pytest.param((-0.02,), (0.02,), "slower", id="from below nothing"),
    ],
)
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_verdict_by_spread_and_tolerance(benches, old, new, verdict, better):
    runs = [{"muon": report("muon", figure("step", *v, better=better))} for v in (old, new)]
    (change,) = benches._compare.changes(*(runs if better == "lower" else runs[::-1]))
    assert change.verdict == verdict


def test_tolerance_is_a_share_of_the_median(benches):
    old, new = ({"muon": report("muon", figure("step", *v))} for v in ((1.0, 1.01), (1.2, 1.21)))
    for tolerance, verdict in ((0.15, "slower"), (0.25, "same")):
        (change,) = benches._compare.changes(old, new, tolerance)
        assert change.verdict == verdict


def test_compares_two_files_and_says_by_its_exit_code(benches, tmp_path, capsys):
    fast = report("muon", figure("step", 0.5, 0.5, 0.51), figure("copies", 0))
    slow = report(
        "muon", figure("step", 0.8, 0.8, 0.81), figure("copies", 0), jax="0.11.0", cores=4
    )
    old = saved(tmp_path, "old.json", fast)
    machine = {"processor": "p", "cores": 4}
    collected = {"form": "gradax benchmarks 1", "machine": machine, "reports": {"muon": slow}}
    new = saved(tmp_path, "new.json", collected)
    assert benches.run.main(["--compare", str(old), str(new)]) == 1
    printed = capsys.readouterr()
    row = "| muon | step | 0.500 (0.500-0.510) | 0.800 (0.800-0.810) | +60.0% | **slower** |"
    assert row in printed.out
    assert "1 slower, 0 faster, 1 same" in printed.out
    assert "warning: muon: cores was 2, is 4" in printed.err
    assert "warning: muon: jax was 0.10.2, is 0.11.0" in printed.err
    assert benches.run.main(["--compare", str(new), str(old)]) == 0
    assert benches.run.main(["--compare", str(old), str(new), "--tolerance", "0.7"]) == 0


def test_says_what_only_one_run_has(benches):
    old = {"muon": report("muon", figure("step", 1.0), figure("gone", 1.0))}
    new = {"muon": report("muon", figure("step", 1.0)), "fdr": report("fdr", figure("x", 1.0))}
    assert list(benches._compare.caveats(old, new)) == ["only in the old results: muon: gone"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "cannot be read as results", id="not JSON"),
        pytest.param("[1]", "not results of benchmarks", id="a list"),
        pytest.param('{"tasks": {}}', "not results of benchmarks", id="another script's results"),
        pytest.param('{"form": "gradax benchmarks 9"}', "its form must be", id="another form"),
        pytest.param('{"form": "gradax benchmarks 1"}', "not results of benchmarks", id="empty"),
        pytest.param(
            json.dumps(report("muon", {"what": "step"})), "recorded no ratios", id="no figures"
        ),
    ],
)
def test_refuses_files_of_another_form(benches, text, message, tmp_path, capsys):
    path, good = tmp_path / "other.json", saved(tmp_path, "good.json", report("muon"))
    path.write_text(text)
    assert benches.run.main(["--compare", str(good), str(path)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert str(path) in printed


def test_refuses_runs_that_have_nothing_in_common(benches, tmp_path, capsys):
    paths = [saved(tmp_path, f"{n}.json", report(n, figure("x", 1.0))) for n in ("muon", "fdr")]
    assert benches.run.main(["--compare", *map(str, paths)]) == 2
    assert "no figure in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["--compare", "a.json", "b.json", "--quick"],
        ["--compare", "a.json", "b.json", "c.json"],
        ["--out", "table.md"],
        ["--tolerance", "-1"],
    ],
)
def test_refuses_arguments_before_anything_runs(benches, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        benches.run.main(arguments)
    assert "error" in capsys.readouterr().err


@pytest.fixture
def small(benches, monkeypatch, tmp_path):
    """Three benchmarks that take no time, of which the second fails and the third hangs."""
    script = """
import sys, _measure
report = _measure.Report("good_report", "Good", [], "c", ())
report.goals.append(_measure.Goal.at_most("a", [0.2, 0.1, 0.4], 0.3))
report.ratio("b", [float(sys.argv[-1])])
report.save()
"""
    shell = lambda code, **more: benches.run.Benchmark(["-c", code], 1, **more)
    table = {
        "good": shell(script, report="good_report"),
        "bad": shell("raise SystemExit(3)"),
        "hung": shell("import time; time.sleep(60)"),
    }
    monkeypatch.setattr(benches.run, "BENCHMARKS", table)
    monkeypatch.setattr(benches.run, "limit", lambda benchmark: 2.0)
    monkeypatch.setattr(benches.environments, "make", lambda name: None)
    monkeypatch.setattr(benches.environments, "python", lambda name: sys.executable)
    return benches


def test_runs_collects_and_compares(small, tmp_path, capfd):
    out = tmp_path / "deep" / "new.json"
    assert small.run.main(["good", "--quick", "--out", str(out)]) == 0
    collected = json.loads(out.read_text())
    (ratio, other) = collected["reports"]["good_report"]["ratios"]
    assert ratio == {
        "what": "a", "median": 0.2, "least": 0.1, "greatest": 0.4, "turns": 3, "better": "lower"
    }  # fmt: skip
    assert other["median"] == 2.0  # of --rounds 2
    assert collected["machine"].keys() >= {"processor", "cores"}
    assert collected["versions"]["python"]
    page = out.with_suffix(".md").read_text()
    assert "| good_report | a | 0.200 (0.100-0.400) | <= 0.3 | yes |" in page
    assert not (BENCHMARKS / "results" / "good_report.json").exists()

    other["median"] = other["least"] = other["greatest"] = 1.0
    out.write_text(json.dumps(collected))
    again = str(tmp_path / "again.json")
    assert small.run.main(["good", "--quick", "--out", again, "--compare", str(out)]) == 1
    assert "1 slower, 0 faster, 1 same" in capfd.readouterr().out


def test_names_what_failed_or_hung_and_keeps_the_rest(small, tmp_path, capfd):
    out = tmp_path / "new.json"
    assert small.run.main(["--quick", "--out", str(out)]) == 1
    collected = json.loads(out.read_text())
    assert collected["failed"] == ["bad", "hung"]
    assert list(collected["reports"]) == ["good_report"]
    assert collected["seconds"].keys() == {"good", "bad", "hung"}
    assert "stopped after 2 s" in capfd.readouterr().out


def test_goes_on_without_a_peer_that_cannot_be_installed(small, monkeypatch, tmp_path, capfd):
    def make(name):
        if name != "fedjax":
            raise subprocess.CalledProcessError(1, ["pip", "install"])

    monkeypatch.setattr(small.environments, "make", make)
    needy = small.run.BENCHMARKS["good"]._replace(peers=("torch",))
    monkeypatch.setitem(small.run.BENCHMARKS, "needy", needy)
    out = tmp_path / "new.json"
    assert small.run.main(["needy", "good", "--quick", "--out", str(out)]) == 1
    collected = json.loads(out.read_text())
    assert collected["failed"] == ["needy"]
    assert list(collected["reports"]) == ["good_report"]
    assert ".venv-bench-torch could not be made" in capfd.readouterr().out


def test_a_figure_is_recorded_once(benches):
    twice = benches._measure.Report("r", "R", [], "c", ())
    twice.ratio("step", [1.0])
    twice.ratio("step", [2.0])
    with pytest.raises(ValueError, match=r"r: recorded more than once: \['step'\]"):
        twice.save()


def test_all_together_stay_under_twenty_minutes(benches):
    seconds = {name: one.seconds for name, one in benches.run.BENCHMARKS.items()}
    assert sum(seconds.values()) < 1200
    for name, benchmark in benches.run.BENCHMARKS.items():
        assert (BENCHMARKS / benchmark.script[0]).is_file(), name
        assert (benchmark.report or name) in benches._measure.ORDER
        assert benches.environments.STEPS.keys() >= set(benchmark.peers)


def test_the_command_finds_the_checkout_it_is_used_in(monkeypatch, tmp_path):
    assert _bench_command.find_script() == BENCHMARKS / "run.py"
    other = tmp_path / "checkout"
    (other / "benchmarks" / "results").mkdir(parents=True)
    (other / "benchmarks" / "run.py").touch()
    monkeypatch.chdir(other / "benchmarks" / "results")
    assert _bench_command.find_script() == BENCHMARKS / "run.py"  # another project's
    (other / "pyproject.toml").write_text('[project]\nname = "gradax"\n')
    assert _bench_command.find_script() == other / "benchmarks" / "run.py"


def test_the_command_needs_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_bench_command, "__file__", str(tmp_path / "gradax" / "_bench_command.py"))
    assert main(["bench"]) == 2
    assert "run it in a checkout of gradax" in capsys.readouterr().err


def test_the_command_hands_arguments_and_exit_code_on(tmp_path, capfd):
    fast, slow = (saved(tmp_path, f"{v}.json", report("muon", figure("x", v))) for v in (1.0, 2.0))
    assert main(["bench", "--compare", str(fast), str(slow)]) == 1
    assert "+100.0%" in capfd.readouterr().out
    assert main(["bench", "--compare", str(slow), str(fast)]) == 0
