"""How often an ideal accelerator would have to go through memory for one step of a method.

A fused kernel reads arrays, computes element by element, writes arrays, and adds up sums on the
way. What depends on a finished sum over an array has to wait for the next kernel, which reads again
whatever it needs. So a step is a number of *passes*, found from its jaxpr alone: that is a lower
bound of what a compiler can do, not what one did.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

#: Arrays of so few elements stay on the chip: reading them again is free.
SMALL = 1024

#: Primitives that are one function call around other primitives.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}

#: Computed element by element, or a mere change of indices: these melt into their neighbours.
_FUSED = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type
    broadcast_in_dim cbrt ceil clamp concatenate conj convert_element_type copy copy_p cos cosh
    div dynamic_slice dynamic_update_slice empty eq erf erf_inv erfc exp exp2 expand_dims expm1
    floor full gather ge gt imag integer_pow iota is_finite le log log1p logistic lt max min mul
    ne neg nextafter not optimization_barrier or pad platform_index population_count pow pvary
    random_bits random_fold_in random_seed random_split random_unwrap random_wrap real
    reduce_precision rem reshape rev round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh slice split sqrt square squeeze stack stop_gradient sub
    tan tanh threefry2x32 transpose unstack xor
"""
_FUSED_NAMES = frozenset(_FUSED.split())
_REDUCTIONS = {"argmax", "argmin"}


@dataclasses.dataclass(eq=False, frozen=True)
class Value:
    """An array that a step reads or computes.

    Attributes:
      size: number of elements.
      nbytes: of all elements.
      primitive: what made it; `"input"` or `"constant"` if nothing did.
      operands: what it was made from.
      kind: `"fused"`, `"reduction"`, or `"stored"` for what needs its operands in memory, such as
        a matrix product or a loop.
    """

    size: int
    nbytes: int
    primitive: str
    operands: tuple["Value", ...] = ()
    kind: str = "fused"

    @property
    def is_large(self) -> bool:
        """Whether it has to lie in memory."""
        return self.size > SMALL

    @functools.cached_property
    def level(self) -> int:
        """The first pass in which it is known: one more than that of the sums it waits for."""
        waits = self.kind != "fused" and any(x.is_large for x in self.operands)
        return self.made_in + waits

    @property
    def made_in(self) -> int:
        """The pass that makes it; what waits for it is made in later ones."""
        return max((x.level + self._fetches(x) for x in self.operands), default=0)

    def _fetches(self, operand: "Value") -> bool:
        """Whether an operand has to be written first, by a pass of its own."""
        made = operand.kind == "fused" and bool(operand.operands)
        return self.kind == "stored" and operand.is_large and made


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one step moves between memory and chip, with one kernel a pass.

    Attributes:
      minimum: bytes of all arrays that are read, and of all that are written, once each.
      fused: bytes that the passes read and write.
      passes: number of passes.
      again: names of the inputs that are read more than once, and of all that is read back.
      stored: primitives that need their operands in memory -> how many there are.
    """

    minimum: int
    fused: int
    passes: int
    again: tuple[str, ...]
    stored: dict[str, int]

    @property
    def is_minimal(self) -> bool:
        """Whether everything is read and written once."""
        return self.fused == self.minimum


def traffic(step: Callable[..., Any], *arguments: Any) -> Traffic:
    """Finds the passes of a step.

    Outputs are paired with the arguments in order: what comes out where it went in, unchanged,
    moves nothing. Both sides of a branch are counted, the body of a loop once.

    Args:
      step: returns a tree whose leaves replace the first of the arguments.
      *arguments: trees of arrays or of their shapes.

    Returns:
      The traffic of one step.
    """
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*arguments)
    builder = _Builder()
    inputs = [builder.source(v.aval, "input") for v in closed.jaxpr.invars]
    constants = [builder.source(v.aval, "input") for v in closed.jaxpr.constvars]
    outputs = builder.run(closed.jaxpr, constants, inputs)
    written = [v for k, v in enumerate(outputs) if k >= len(inputs) or v is not inputs[k]]
    names = dict(zip(outputs, _names(shapes), strict=True))
    names |= dict(zip(inputs, _names(arguments), strict=True))
    return _account(written, names)


def _names(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


class _Builder:
    """Turns a jaxpr, with all that it calls, into a graph of values."""

    def __init__(self) -> None:
        self._known: dict[Any, Value] = {}

    def source(self, aval: Any, primitive: str) -> Value:
        """A value that nothing computes."""
        return Value(*_sizes(aval), primitive)

    def run(self, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        """Follows the equations; returns the outputs."""
        environment = dict(zip(jaxpr.constvars, constants, strict=True))
        environment |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if not isinstance(atom, core.Literal):
                return environment[atom]
            key = ("literal", str(atom.val), str(atom.aval))
            return self._once(key, self.source(atom.aval, "constant"))

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name in _CALLS:
            found = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            inner = getattr(found, "jaxpr", found)
            constants = [self.source(v.aval, "input") for v in inner.constvars]
            return self.run(inner, constants, operands)
        if name == "cond":
            branches = [self.run(b.jaxpr, [], operands[1:]) for b in equation.params["branches"]]
            chosen = zip(equation.outvars, *branches, strict=True)
            return [self._value("select_n", v, (operands[0], *made)) for v, *made in chosen]
        if name == "dot_general" and not equation.outvars[0].aval.shape:
            name = "reduce_dot"
        taken = tuple(operands)
        results = [self._value(name, v, taken) for v in equation.outvars]
        if _kind(name) == "stored":
            return results
        key = (name, str(sorted(equation.params.items())), tuple(map(id, taken)))
        return [self._once((*key, number), result) for number, result in enumerate(results)]

    def _value(self, name: str, variable: Any, operands: tuple[Value, ...]) -> Value:
        return Value(*_sizes(variable.aval), name, operands, _kind(name))

    def _once(self, key: Any, value: Value) -> Value:
        """The same operation on the same values is one value, as a compiler sees it."""
        return self._known.setdefault(key, value)


def _sizes(aval: Any) -> tuple[int, int]:
    size = math.prod(aval.shape)
    # A random key is two words.
    return size, size * getattr(aval.dtype, "itemsize", 8)


def _kind(name: str) -> str:
    if name in _FUSED_NAMES:
        return "fused"
    return "reduction" if name.startswith("reduce_") or name in _REDUCTIONS else "stored"


def _account(outputs: Sequence[Value], names: dict[Value, str]) -> Traffic:
    """Adds up what every pass reads, and what is written."""
    live = list(_reachable(outputs))
    kept = _kept(live, outputs)
    # Results of one operation share the tuple of its operands.
    kernels = list({id(value.operands): value for value in live if _is_stored(value)}.values())
    needed: dict[int, set[Value]] = {}
    for value in outputs:
        needed.setdefault(value.level, set()).add(value)
    for value in live:
        if value.kind == "reduction":
            needed.setdefault(value.made_in, set()).update(value.operands)
    reads: Counter[Value] = Counter()
    for kernel in kernels:
        reads.update({value for value in kernel.operands if value.is_large})
        for operand in kernel.operands:
            if operand.kind == "fused" and operand.operands:
                needed.setdefault(operand.level, set()).add(operand)
    for number, roots in needed.items():
        reads.update(_read(roots, kept, number))
    sources = {value for value in live if value.primitive == "input"}
    once = sum(value.nbytes for value in sources if not value.is_large)
    moved = once + sum(value.nbytes * times for value, times in reads.items())
    written = [*outputs, *(kept.keys() - set(outputs))]
    # An output is read back the first time already.
    twice = (v for v, times in reads.items() if times > (v.primitive == "input"))
    again = {names.get(value, value.primitive) for value in twice}
    return Traffic(
        minimum=sum(value.nbytes for value in (*sources, *outputs)),
        fused=moved + sum(value.nbytes for value in written),
        passes=1 + max((value.made_in for value in live if _is_pass(value)), default=0),
        again=tuple(sorted(again)),
        stored=dict(Counter(kernel.primitive for kernel in kernels)),
    )


def _is_stored(value: Value) -> bool:
    return value.kind == "stored" and any(x.is_large for x in (value, *value.operands))


def _is_pass(value: Value) -> bool:
    """Whether making it goes through something large; that of a small array is free."""
    return value.is_large or (value.kind != "fused" and any(x.is_large for x in value.operands))


def _reachable(outputs: Sequence[Value]) -> Iterator[Value]:
    """Every value that an output depends on, once."""
    seen, waiting = set(outputs), list(outputs)
    while waiting:
        value = waiting.pop()
        yield value
        fresh = set(value.operands) - seen
        seen |= fresh
        waiting.extend(fresh)


def _kept(live: Sequence[Value], outputs: Sequence[Value]) -> dict[Value, int]:
    """Large values that are written to memory -> the first pass that can read them back."""
    kept = {value: value.level + 1 for value in outputs if value.is_large}
    for value in live:
        if value.kind == "stored":
            operands = (x for x in value.operands if x.is_large and x.primitive != "input")
            kept |= {x: x.level + 1 for x in operands if x not in kept}
    waited = {value: value.level for value in live if value.kind != "fused" and value.is_large}
    return kept | waited


def _read(roots: set[Value], kept: dict[Value, int], number: int) -> set[Value]:
    """What a pass reads to compute its roots: inputs, and what earlier passes wrote."""
    read, waiting, seen = set(), list(roots), set(roots)
    while waiting:
        value = waiting.pop()
        if not value.is_large:
            continue
        if value.primitive == "input" or kept.get(value, number + 1) <= number:
            read.add(value)
            continue
        fresh = set(value.operands) - seen
        seen |= fresh
        waiting.extend(fresh)
    return read
