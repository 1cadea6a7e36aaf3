"""What can be read off the texts of lowered and of compiled programs, without running them."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

#: Instructions by which devices talk to one another.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_WIDTHS = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1, "token": 0, "opaque": 0}
# Such as: %name (x: f32[2], y: f32[3]) -> f32[2] {
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
# Such as: ROOT %sum.2 = (f32[2]{0}, f32[]) all-reduce(%x, %y), to_apply=%add
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_PRODUCT = "= stablehlo.dot_general "
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One line of a computation of a compiled module.

    Attributes:
      opcode: such as `fusion` or `all-reduce`.
      shape: text of the type of its result.
      calls: names of the computations that it calls.
      text: all that follows the opcode.
    """

    opcode: str
    shape: str
    calls: tuple[str, ...]
    text: str

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return sum(_array_bytes(*found) for found in _ARRAY.findall(self.shape))


def _array_bytes(dtype: str, extents: str) -> int:
    width = _WIDTHS[dtype] if dtype in _WIDTHS else max(1, int(re.sub(r"\D+", "", dtype)) // 8)
    for extent in filter(None, extents.split(",")):
        width *= int(extent)
    return width


def computations(hlo: str) -> dict[str, list[Instruction]]:
    """Takes the text of a compiled module apart.

    Args:
      hlo: `compiled.as_text()`.

    Returns:
      Name of a computation -> its instructions; that of the whole program comes last.
    """
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            current = found.setdefault(head[1], [])
        elif body := _INSTRUCTION.match(line):
            current.append(Instruction(body[2], body[1], _called(body[3]), body[3]))
    return found


def _called(text: str) -> tuple[str, ...]:
    branches = (name.strip(" %") for names in _BRANCHES.findall(text) for name in names.split(","))
    return (*_CALLED.findall(text), *branches)


def instructions(hlo: str, *, in_loops: bool = False) -> Iterator[Instruction]:
    """Lists the instructions of a compiled module, each once.

    Args:
      hlo: `compiled.as_text()`.
      in_loops: only those that belong to a `while`, however deep.

    Yields:
      The instructions.
    """
    everything = computations(hlo)
    listed = set(everything)
    if in_loops:
        loops = (one for body in everything.values() for one in body if one.opcode == "while")
        listed, waiting = set(), [name for loop in loops for name in loop.calls]
        while waiting:
            name = waiting.pop()
            if name not in listed:
                listed.add(name)
                waiting += [called for one in everything.get(name, []) for called in one.calls]
    for name in everything:
        if name in listed:
            yield from everything[name]


def exchanged(hlo: str, *, in_loops: bool = False) -> list[Instruction]:
    """Lists the instructions by which the devices exchange something.

    A loop's body is listed once; what begins and ends in two instructions, once too.

    Args:
      hlo: `compiled.as_text()`.
      in_loops: only those in the bodies and conditions of loops.

    Returns:
      The instructions, their opcodes among :data:`COLLECTIVES`.
    """
    whole = (
        one._replace(opcode=one.opcode.removesuffix("-start"))
        for one in instructions(hlo, in_loops=in_loops)
    )
    return [one for one in whole if one.opcode in COLLECTIVES]


def collectives(hlo: str, *, in_loops: bool = False) -> dict[str, int]:
    """Counts what :func:`exchanged` lists: opcode -> number, in alphabetical order."""
    return dict(sorted(Counter(one.opcode for one in exchanged(hlo, in_loops=in_loops)).items()))


def collective_bytes(hlo: str) -> int:
    """Adds up the results of all collectives: what one device receives, once through each loop."""
    return sum(one.nbytes for one in exchanged(hlo))


def host_calls(text: str) -> list[str]:
    """Finds calls of Python and transfers to the host, in either kind of program text.

    Args:
      text: of a compiled module, or of a StableHLO module.

    Returns:
      Targets of the calls, and names of the transfers.
    """
    targets = re.findall(r'custom_call_target="([^"]*)"|custom_call @([\w.]+)', text)
    calls = {name for name in map("".join, targets) if "callback" in name.lower()}
    return sorted(calls | set(re.findall(r"\b(?:infeed|outfeed)\b(?=\(|\"\()", text)))


class Portable(NamedTuple):
    """What a program that was lowered for another platform holds.

    Attributes:
      operations: StableHLO operation -> how often it occurs.
      custom_calls: targets of its custom calls.
      host_calls: calls of Python.
      has_float64: whether anything has 64-bit floats.
      has_dynamic_shapes: whether a shape is not known.
    """

    operations: dict[str, int]
    custom_calls: tuple[str, ...]
    host_calls: tuple[str, ...]
    has_float64: bool
    has_dynamic_shapes: bool

    @classmethod
    def of(cls, stablehlo: str) -> "Portable":
        """Reads the text of a StableHLO module."""
        return cls(
            operations=dict(Counter(re.findall(r"\bstablehlo\.(\w+)", stablehlo))),
            custom_calls=tuple(sorted(set(re.findall(r"custom_call @(\w+)", stablehlo)))),
            host_calls=tuple(host_calls(stablehlo)),
            has_float64=bool(re.search(r"tensor<(?:[\d?]+x)*f64>", stablehlo)),
            has_dynamic_shapes=bool(re.search(r"tensor<[^>]*\?", stablehlo)),
        )


def dot_flops(stablehlo: str) -> int:
    """Adds up the operations of all matrix products, two for a multiplication and an addition.

    Those in a loop count once, those in a branch fully.

    Args:
      stablehlo: text of a lowered module.

    Returns:
      The number of operations.
    """
    return sum(_flops_of(line) for line in stablehlo.splitlines() if _PRODUCT in line)


def _flops_of(line: str) -> int:
    # Such as: contracting_dims = [1] x [1] : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
    contracted = re.search(r"contracting_dims = \[([\d, ]*)\]", line)
    left, *_, result = (_extents(found) for found in re.findall(r"tensor<([^>]*)>", line))
    summed = [left[int(number)] for number in contracted[1].split(",")] if contracted else []
    return 2 * math.prod(result) * math.prod(summed)


def _extents(tensor: str) -> list[int]:
    return [int(extent) for extent in tensor.split("x")[:-1]]
