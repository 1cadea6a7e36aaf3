"""What the compiler makes of steps and rounds: bytes, passes, products, and what devices exchange.

Nothing is timed, nothing runs: programs are compiled for this CPU and lowered for TPU and GPU.
"""

import os
from typing import Any, NamedTuple

# Before JAX makes its first array.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import _hlo
import _measure
import _passes
import _rounds
import _steps
import jax
from jax import export

from gradax import catalogue

PLATFORMS = ("tpu", "cuda")

#: Method -> matrix iterations that its paper takes, for each matrix of `_steps.SHAPES`.
ITERATIONS = {
    "muon": 5,
    "drop_muon": 5,
    "scale_by_orthogonalized_momentum": 5,
    "muon_signum": 8,
    "muon_adam": 8,
}

#: Features, hidden layer and targets of the perceptron of the rounds: 100,352 parameters.
WIDTHS = (128, 512, 67)

#: Bytes of what is no array of a model: counts, weights, flags.
LITTLE = 1024

METHOD = """\
A step is `tx.update` and `optax.apply_updates` in one function, in float32, on two matrices and a
vector of 266,240 parameters in all; gradients and extras come ready-made. Bytes are per parameter.
*Minimum* is every array that the step reads and every array that it writes, once each. *Passes* is
found from the jaxpr: a kernel computes element by element and adds up sums on the way; whatever
depends on a finished sum waits for the next pass, which reads again what it needs. *In passes* is
what these kernels would move: where it equals the minimum, one kernel can do the whole step. *CPU*
is what XLA counts in the step compiled for this machine, with donated parameters and state: its CPU
backend writes one array a kernel, so moments are written, and then read back by the kernel that
writes the parameters."""

EVIDENCE = """\
What this shows and what not: passes and bytes in passes are properties of the method as written,
and a bound that no compiler can beat without recomputing in other ways; whether XLA fuses as well
on a TPU or a GPU was not seen, for there is none here. That a step is lowered and exported for them
shows that every operation exists there, that no 64-bit float, unknown shape or call of Python is in
it, and how many products it asks for; not how fast it is. Collectives are those that XLA's
partitioner chose for four CPU devices; it is the same partitioner on accelerators, but its later
passes differ by platform. *Received* is the size of their results, each counted once, over that of
the model."""


def main() -> None:
    """Looks at every method and every algorithm."""
    _measure.arguments(__doc__, rounds=1)  # there are no turns; `run.py` passes their number
    report = _measure.Report(
        name="lowering",
        title="What the compiler makes of it",
        method=[METHOD, EVIDENCE],
        command="python benchmarks/lowering.py",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    found = {name: look(entry) for name, entry in _steps.listed().items()}
    add_bytes(report, found)
    add_products(report, found)
    add_platforms(report, found)
    add_rounds(report)
    report.save()


class Found(NamedTuple):
    """What was found about a method's step.

    Attributes:
      size: number of parameters.
      traffic: its passes.
      cpu_bytes: bytes that the step compiled for CPU touches.
      fusions: kernels of that step that are fused.
      copies: `copy` instructions on arrays in that step.
      portable: platform -> what was lowered for it.
      flops: of the matrix products, as lowered for the first platform.
    """

    size: int
    traffic: _passes.Traffic
    cpu_bytes: float
    fusions: int
    copies: int
    portable: dict[str, _hlo.Portable]
    flops: int

    def each(self, nbytes: float) -> str:
        """Bytes per parameter."""
        return f"{nbytes / self.size:.2f}".removesuffix(".00")


def look(entry: catalogue.Entry) -> Found:
    """Traces, lowers, exports and compiles the step of one method."""
    step = _steps.step_of(entry)
    jitted = step.jit()
    compiled = jitted.lower(*step.arguments).compile()
    text = compiled.as_text()
    texts = {
        platform: export.export(jitted, platforms=[platform])(*step.arguments).mlir_module()
        for platform in PLATFORMS
    }
    return Found(
        size=step.size,
        traffic=_passes.traffic(step.function, *step.arguments),
        cpu_bytes=compiled.cost_analysis()["bytes accessed"],
        fusions=sum(one.opcode == "fusion" for one in _hlo.instructions(text)),
        copies=_measure.count_copies(text),
        portable={platform: _hlo.Portable.of(text) for platform, text in texts.items()},
        flops=_hlo.dot_flops(texts[PLATFORMS[0]]),
    )


def add_bytes(report: _measure.Report, found: dict[str, Found]) -> None:
    """Tables of bytes: methods of one pass, and the others with their reasons."""
    columns = ["method", "minimum", "in passes", "passes", "CPU", "fusions", "copies"]
    minimal, others = [], []
    for name, one in found.items():
        traffic = one.traffic
        amounts = [one.each(traffic.minimum), one.each(traffic.fused), traffic.passes]
        row = [name, *amounts, one.each(one.cpu_bytes), one.fusions, one.copies]
        if traffic.is_minimal:
            minimal.append(row)
        else:
            others.append([*row, _steps.EXCEPTIONS.get(name, "**no reason is known**")])
    report.table(
        "Methods whose step is one element-wise pass, bytes per parameter", columns, minimal
    )
    title = "Methods that have to read something again"
    report.table(f"{title}; a loop's body counts once", [*columns, "why"], others)
    unexplained = [name for name, one in found.items() if not one.traffic.is_minimal]
    unexplained = [name for name in unexplained if name not in _steps.EXCEPTIONS]
    goal = "element-wise steps that move more than their minimum for no named reason"
    report.goals.append(_measure.Goal.at_most(goal, [len(unexplained)], 0))
    report.samples["bytes"] = {name: one.traffic.fused / one.size for name, one in found.items()}


def add_products(report: _measure.Report, found: dict[str, Found]) -> None:
    """Matrix products against those of the iterations as published."""
    rows = []
    for name, steps in ITERATIONS.items():
        published = steps * sum(_iteration_flops(shape) for shape in _steps.SHAPES.values())
        lowered = found[name].flops
        products = found[name].portable["tpu"].operations["dot_general"]
        rows.append([name, steps, products, f"{lowered / 1e6:.0f}", f"{lowered / published:.2f}"])
        goal = f"{name}: operations of matrix products over those published"
        report.goals.append(_measure.Goal.at_most(goal, [lowered / published], 1.0))
    columns = ["method", "iterations", "products", "million operations", "over published"]
    report.table("Matrix products of a step, as lowered for TPU", columns, rows)


def _iteration_flops(shape: tuple[int, ...]) -> int:
    """Operations of one quintic iteration: x x^T, its square, and a product with x."""
    if len(shape) != 2:
        return 0
    m, n = sorted(shape)
    return 2 * (2 * m * m * n + m * m * m)


def add_platforms(report: _measure.Report, found: dict[str, Found]) -> None:
    """What the steps exported for other platforms hold."""
    rows = []
    for platform in PLATFORMS:
        held = {name: one.portable[platform] for name, one in found.items()}
        calls = sorted({call for one in held.values() for call in one.custom_calls})
        rows.append(
            [
                platform,
                len(held),
                sum(bool(one.host_calls) for one in held.values()),
                sum(one.has_float64 for one in held.values()),
                sum(one.has_dynamic_shapes for one in held.values()),
                sum("while" in one.operations for one in held.values()),
                ", ".join(f"`{call}`" for call in calls) or "none",
            ]
        )
        strange = [
            name
            for name, one in held.items()
            if one.host_calls or one.has_float64 or one.has_dynamic_shapes
        ]
        goal = f"{platform}: steps with calls of Python, 64-bit floats or unknown shapes"
        report.goals.append(_measure.Goal.at_most(goal, [len(strange)], 0))
    columns = ["platform", "steps exported", "with calls of Python", "with 64-bit floats"]
    columns += ["with unknown shapes", "with a loop", "custom calls"]
    report.table("Steps exported by `jax.export` for platforms that are not here", columns, rows)


def add_rounds(report: _measure.Report) -> None:
    """What four devices exchange in a round."""
    problem = _rounds.Problem.of(WIDTHS)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.params))
    rows: list[list[Any]] = []
    inside, called = 0, 0
    for name, make in _rounds.ALGORITHMS.items():
        algorithm, options = make("clients"), _rounds.OPTIONS.get(name, {})
        forms = {
            "simulate": _rounds.simulated(algorithm, problem, mesh=_rounds.mesh(), **options),
            "shard_map": _rounds.in_a_loop(make("devices"), problem),
        }
        elsewhere = _rounds.simulated(algorithm, problem, **options)
        texts = [elsewhere.lower(lowering_platforms=(p,)).as_text() for p in PLATFORMS]
        called += sum(bool(_hlo.host_calls(text)) for text in texts)
        for form, traced in forms.items():
            text = traced.lower().compile().as_text()
            called += bool(_hlo.host_calls(text))
            in_loops = _hlo.collectives(text, in_loops=True)
            inside += sum(one.nbytes > LITTLE for one in _hlo.exchanged(text, in_loops=True))
            moved = f"{_hlo.collective_bytes(text) / size:.2f}"
            rows.append([name, form, _show(_hlo.collectives(text)), _show(in_loops), moved])
    columns = ["algorithm", "form", "collectives", "of them in loops", "received, in models"]
    title = f"A round on {_rounds.DEVICES} devices: {_rounds.CLIENTS} clients in `simulate`, "
    title += f"{_rounds.DEVICES} under `shard_map`; {size // 4:,} parameters"
    report.table(title, columns, rows)
    goal = f"arrays above {LITTLE} bytes exchanged inside loops, all algorithms and forms"
    report.goals.append(_measure.Goal.at_most(goal, [inside], 0))
    goal = "rounds with calls of Python, lowered for CPU, TPU and GPU"
    report.goals.append(_measure.Goal.at_most(goal, [called], 0))


def _show(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "none"


if __name__ == "__main__":
    main()
