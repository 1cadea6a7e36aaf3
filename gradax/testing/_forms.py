"""Conformance of what is no gradient transformation: schedules, controllers, samplers, bandits."""

import dataclasses
import functools
import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import catalogue
from gradax.schedules import Bandit, Controller, GradientStats, Sampler
from gradax.testing._battery import ConformanceError
from gradax.testing._compare import close, equal, expect, finite, is_key, same_types


def _noisier(time: jax.Array) -> GradientStats:
    """Statistics of gradients whose noise grows: a batch controller has something to do."""
    mean = {"w": jnp.array([2.0, 1.0]), "b": jnp.array(0.5)}
    squares = jax.tree.map(lambda leaf: leaf * 2.0**time, mean)
    return GradientStats(mean, squares, 2.0**time, jnp.asarray(8, jnp.int32))


#: Argument of a controller's or bandit's ``update`` -> what it observes in a step of a test.
OBSERVATIONS: dict[str, Callable[[jax.Array], Any]] = {
    "cost": lambda step: 2.0 + jnp.cos(step.astype(jnp.float32)),
    "context": lambda step: 0.5 + 0.4 * jnp.sin(step.astype(jnp.float32)),
    "value": lambda step: 1.0 / (1.0 + step.astype(jnp.float32)),
    "eigenvalue": lambda step: 0.5 ** step.astype(jnp.float32),
    "epoch": lambda step: step,
    "stats": lambda step: _noisier(step.astype(jnp.float32)),
}

STEPS = 6
_LAST = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class FormCheck:
    """One requirement on the objects of some forms; call it with an object.

    Attributes:
      name: its name in error messages and test identifiers.
      summary: what it asks, in one line.
      forms: names of the forms it applies to.
      function: raises if the object does not meet it.
    """

    name: str
    summary: str
    forms: frozenset[str]
    function: Callable[[Any], None]

    def __call__(self, made: Any) -> None:
        """Runs the check; returns nothing, raises if it fails."""
        self.function(made)


#: Every check by name, in the order in which they run.
FORM_CHECKS: dict[str, FormCheck] = {}


def _check(*forms: str) -> Callable[[Callable[[Any], None]], FormCheck]:
    def enter(function: Callable[[Any], None]) -> FormCheck:
        summary = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        entered = FormCheck(function.__name__, summary, frozenset(forms), function)
        FORM_CHECKS[entered.name] = entered
        return entered

    return enter


def form_of(made: Any) -> str:
    """Names the form of an object.

    Args:
      made: what a factory returned.

    Returns:
      ``"schedule"``, ``"controller"``, ``"sampler"`` or ``"bandit"``.

    Raises:
      TypeError: if it is none of them.
    """
    for form in (Controller, Sampler, Bandit):
        if isinstance(made, form):
            return form.__name__.lower()
    if not callable(made):
        raise TypeError(f"form_of: need a schedule, Controller, Sampler or Bandit, got {made!r}.")
    return "schedule"


def check_form(made: Any) -> tuple[str, ...]:
    """Runs every check that applies to a schedule, controller, sampler or bandit.

    Args:
      made: the object. A controller's or bandit's ``update`` is fed by the names of its
        arguments, from ``OBSERVATIONS``.

    Returns:
      Names of the checks that were run; all of them passed.

    Raises:
      ConformanceError: an ``AssertionError`` that names each failed check.
      TypeError: if the object has no known form.

    Examples:
      >>> import optax
      >>> from gradax import testing
      >>> names = testing.check_form(optax.linear_schedule(0.1, 0.0, 10))
      >>> "schedule_broadcasts" in names
      True
    """
    chosen = {n: c for n, c in FORM_CHECKS.items() if form_of(made) in c.forms}
    failures: dict[str, Exception] = {}
    for name, check in chosen.items():
        try:
            check(made)
        except Exception as error:
            failures[name] = error
    if failures:
        raise ConformanceError(failures, FORM_CHECKS)
    return tuple(chosen)


class FormCell(NamedTuple):
    """One question to one entry of the catalogue.

    Attributes:
      entry: name of the entry.
      check: name of the check.
    """

    entry: str
    check: str


@functools.cache
def made(name: str) -> Any:
    """Builds a catalogue entry with its example arguments; the same object each time.

    Args:
      name: public name.

    Returns:
      What the factory returns.
    """
    return catalogue.get(name).make()


def form_cells() -> list[FormCell]:
    """Lists every check for every schedule, controller, sampler and bandit of the catalogue.

    Returns:
      One cell for each.
    """
    listed = []
    for entry in catalogue.entries(kinds=frozenset({"schedule", "controller", "sampler"})):
        form = form_of(made(entry.name))
        listed += [FormCell(entry.name, n) for n, c in FORM_CHECKS.items() if form in c.forms]
    return listed


@_check("schedule")
def schedule_broadcasts(schedule: optax.Schedule) -> None:
    """A vector of counts gives the vector of values, eagerly, under jit and under vmap."""
    counts = jnp.arange(STEPS)
    single = jnp.stack([jnp.asarray(schedule(count)) for count in counts])
    expect(single.shape == counts.shape, f"A scalar count gives the shape {single.shape[1:]}.")
    close("a vector of counts", jnp.asarray(schedule(counts)), single, 1e-6, 0.0)
    close("jit", jax.jit(schedule)(counts), single, 1e-6, 0.0)
    close("vmap", jax.vmap(schedule)(counts), single, 1e-6, 0.0)


@_check("schedule")
def schedule_holds_its_end(schedule: optax.Schedule) -> None:
    """Values stay finite and not negative up to the largest count, and move no more at the end."""
    late = jnp.array([_LAST // 2, _LAST - 1, _LAST], jnp.int32)
    values = jnp.asarray(schedule(late))
    finite("the late value", values)
    expect(bool(jnp.all(values >= 0)), f"Late values are negative: {values}.")
    expect(bool(values[1] == values[2]), f"The value still moves at the end: {values}.")


@_check("schedule")
def schedule_keeps_dtypes(schedule: optax.Schedule) -> None:
    """As a learning rate it leaves every leaf its dtype, with 64 bits enabled and without."""
    for wide in (False, True):
        with jax.enable_x64(wide):
            params = {"h": jnp.ones(2, jnp.bfloat16), "f": jnp.ones(2, jnp.float32)}
            tx = optax.sgd(schedule)
            updates, _ = tx.update(params, tx.init(params))
            same_types("an update", updates, params)


@_check("schedule")
def schedule_is_a_hyperparameter(schedule: optax.Schedule) -> None:
    """optax.inject_hyperparams takes it as it takes any schedule, in a scan too."""
    params = jnp.ones(2)
    plain, injected = optax.sgd(schedule), optax.inject_hyperparams(optax.sgd)(schedule)

    def walk(tx):
        body = lambda state, _: tx.update(params, state)[::-1]
        return jax.lax.scan(body, tx.init(params), length=STEPS)[1]

    close("the injected run", walk(injected), walk(plain), 1e-5, 1e-7)


@_check("schedule")
def schedule_joins(schedule: optax.Schedule) -> None:
    """optax.join_schedules lets it begin at its own count zero."""
    joined = optax.join_schedules([optax.constant_schedule(0.5), schedule], [2])
    close("after the boundary", jnp.asarray(joined(3)), jnp.asarray(schedule(1)), 1e-6, 0.0)


def _key(state: Any) -> Any:
    """Typed keys as raw data, so that NumPy and pickle can take a state."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else np.asarray(x), state)


def _restored(state: Any) -> Any:
    """A state that has been to the disk and back."""
    saved = pickle.loads(pickle.dumps([np.asarray(leaf) for leaf in jax.tree.leaves(_key(state))]))
    leaves, tree = jax.tree.flatten(state)
    back = lambda new, old: jax.random.wrap_key_data(new) if is_key(old) else jnp.asarray(new)
    return jax.tree.unflatten(tree, [back(n, o) for n, o in zip(saved, leaves, strict=True)])


def _beginning(form: Any, seed: int = 0) -> Any:
    return form.init() if isinstance(form, Controller) else form.init(seed)


def _advance(form: Any) -> Callable[[Any, jax.Array], tuple[Any, Any]]:
    """One step of any form: ``(state, number of the step) -> (state, output)``."""
    if isinstance(form, Sampler):
        return lambda state, step: form.sample(state)[::-1]
    names = [name for name in _parameters(form.update) if name in OBSERVATIONS]
    output = form.value if isinstance(form, Bandit) else lambda state: state

    def advance(state, step):
        state = form.update(state, **{name: OBSERVATIONS[name](step) for name in names})
        return state, output(state)

    return advance


def _parameters(update: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(update).parameters


@_check("controller", "sampler", "bandit")
def form_jit_equals_eager(form: Any) -> None:
    """A scan under jit gives what a loop of eager calls gives, from a state of fixed types."""
    advance, state, outputs = _advance(form), _beginning(form), []
    steps = jnp.arange(STEPS)
    last, stream = jax.jit(lambda state: jax.lax.scan(advance, state, steps))(state)
    for step in steps:
        new, output = advance(state, step)
        same_types("the state", new, state)
        state = new
        outputs.append(output)
    close("the last state", _key(last), _key(state))
    close("the stream", _key(stream), jax.tree.map(lambda *x: jnp.stack(x), *map(_key, outputs)))


@_check("controller", "sampler", "bandit")
def form_is_pure(form: Any) -> None:
    """The same state gives the same result twice, and no state shares a buffer with another."""
    advance, state = _advance(form), _beginning(form)
    step = jnp.array(0)
    equal("a second call", *(_key(advance(state, step)) for _ in range(2)))
    donated = jax.jit(advance, donate_argnums=0)
    equal(
        "the donated run",
        _key(donated(_beginning(form), step)),
        _key(jax.jit(advance)(state, step)),
    )


@_check("controller", "sampler", "bandit")
def form_resumes(form: Any) -> None:
    """A state saved in the middle and restored gives the same stream, bit for bit."""
    advance = _advance(form)
    state, rest = _beginning(form), []
    for step in range(STEPS // 2):
        state, _ = advance(state, jnp.array(step))
    for begin in (state, _restored(state)):
        stream = []
        for step in range(STEPS // 2, STEPS):
            begin, output = advance(begin, jnp.array(step))
            stream.append(output)
        rest.append(_key((begin, stream)))
    equal("the restored run", rest[1], rest[0])


@_check("controller", "sampler", "bandit")
def form_vmaps(form: Any) -> None:
    """Several of them side by side under vmap give what each gives alone."""
    seeds = () if isinstance(form, Controller) else (jnp.arange(2),)
    advance = _advance(form)

    def walk(*key):
        state = form.init() if not key else form.init(jax.random.key(key[0]))
        return jax.tree.map(_raw, jax.lax.scan(advance, state, jnp.arange(STEPS)))

    together = jax.vmap(walk, axis_size=2)(*seeds)
    for lane in range(2):
        alone = walk(*(seed[lane] for seed in seeds))
        close("a lane", jax.tree.map(lambda leaf, lane=lane: leaf[lane], together), alone)


def _raw(leaf: jax.Array) -> jax.Array:
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if typed else leaf


@_check("sampler", "bandit")
def form_takes_a_seed_or_a_key(form: Any) -> None:
    """An integer and its JAX key begin the same stream, which is the same each time."""
    streams = [
        _key(jax.lax.scan(_advance(form), form.init(key), jnp.arange(STEPS))[1])
        for key in (3, 3, jax.random.key(3))
    ]
    equal("the same seed", streams[1], streams[0])
    equal("the key of the seed", streams[2], streams[0])
