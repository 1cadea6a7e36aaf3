"""The battery can fail: every check catches what it is meant to catch, and lets the rest pass."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from gradax import testing
from gradax.federated import axis
from gradax.testing import Subject

from . import specimens as broken


def on_axis(factory):
    return Subject(factory, ("axis",))


def state_of(leaf):
    return lambda: broken.descent(init=lambda params: leaf)


# Check -> a transformation that must not pass it, and what the error has to say.
CAUGHT = {
    "init_jit_equals_eager": (Subject(broken.knows_whether_it_is_traced), "jitted init"),
    "update_jit_equals_eager": (Subject(broken.impure), "eager run"),
    "scan_equals_loop": (Subject(broken.impure), "a scan"),
    "vmap_equals_loop": (Subject(broken.differs_in_a_batch), "vmap"),
    "pmap_equals_single": (on_axis(broken.differs_on_devices), "pmap"),
    "shard_map_equals_single": (on_axis(broken.differs_on_devices), "shard_map"),
    "sharding_types": (Subject(broken.ravels), "sharding"),
    "update_dtype": (Subject(lambda: broken.promotes(jnp.float32)), "bfloat16.*to float32"),
    "float64_kept": (
        Subject(lambda: broken.descent(lambda u: u.astype(jnp.float32))),
        "float64.*to float32",
    ),
    "mixed_float32_float64": (Subject(broken.divides_by_norm), "float32.*to float64"),
    "no_float64_leak": (Subject(broken.leaves_float64), "64 bits"),
    "complex_kept": (Subject(broken.drops_imaginary), "complex64.*to float32"),
    "state_stable": (Subject(broken.keeps_value), "float16"),
    "scalar_leaf": (Subject(lambda: broken.descent(lambda u: -u / u.shape[0])), "out of range"),
    "empty_leaf": (Subject(lambda: broken.descent(lambda u: u - jnp.max(u))), "zero-size"),
    "empty_tree": (Subject(broken.sums_leaves), "empty"),
    "none_leaf": (Subject(broken.pads_none), "structure"),
    "ranks": (Subject(broken.flattens), "r3.* changes from"),
    "containers": (Subject(broken.only_dicts), "items"),
    "nnx_state": (Subject(broken.renames_containers), "structure|Custom node"),
    "chain": (Subject(broken.triple), "unpack"),
    "masked": (Subject(broken.empty_tuples_are_leaves), "MaskedNode|tuple|sequence"),
    "partition": (Subject(broken.empty_tuples_are_leaves), "MaskedNode|tuple|sequence"),
    "multi_steps": (Subject(lambda: broken.promotes(jnp.float32)), "bfloat16|float32"),
    "apply_if_finite": (Subject(broken.changes_state_dtype), "int32"),
    "inject_hyperparams": (
        broken.listed(broken.branches_on_a_number, learning_rate=1e-2),
        "boolean conversion",
    ),
    "map_params": (Subject(broken.first_leaf_counts), "out of range"),
    "abstract_init": (Subject(broken.float_of_params), "ShapeDtypeStruct"),
    "donation": (Subject(broken.aliasing), "shares its buffer"),
    "no_retrace": (Subject(broken.weakly_typed), "traced 2 times"),
    "serialization_pickle": (Subject(broken.local_state), "pickle"),
    "serialization_flax": (Subject(broken.unknown_container), "serialize"),
    "serialization_orbax": (Subject(state_of(jnp.zeros((0,)))), "zero size"),
    "count_saturates": (Subject(broken.wrapping_count), "wraps"),
    "unknown_extra_args": (Subject(broken.strict_arguments), "known_to_nobody"),
    "params_none": (Subject(broken.stumbles_without_params), "does not name params"),
    "missing_extra": (
        broken.listed(lambda: broken.needs_value_silently(), needs=("value",)),
        "value",
    ),
    "unbound_axis": (broken.listed(broken.bare_pmean, needs=("axis",)), "unbound axis name"),
    "schedule_equals_float": (
        broken.listed(broken.wants_a_float, learning_rate=1e-2),
        "params.*differs",
    ),
    "bad_learning_rate": (broken.listed(optax.sgd, learning_rate=1e-2), "No ValueError"),
    "nan_argument": (broken.listed(optax.adamw, learning_rate=1e-2), "No ValueError"),
    "converges_parabola": (Subject(lambda: optax.sgd(-1e-3)), "the minimum is at"),
    "converges_matrix_parabola": (Subject(lambda: optax.sgd(1e-9)), "the minimum is at"),
    "converges_mixed_tree": (Subject(lambda: optax.sgd(1e-9)), "the minimum is at"),
    "converges_rosenbrock": (Subject(lambda: optax.sgd(1e-1)), "the minimum is at"),
    "bfloat16_progress": (Subject(lambda: optax.sgd(-1e-2)), "The loss rose"),
    "zero_gradient": (Subject(broken.divides_by_norm), "size 0.*not finite"),
    "tiny_gradient": (Subject(broken.divides_by_norm), "size 1e-25.*not finite"),
    "huge_gradient": (Subject(lambda: broken.descent(lambda u: -(u**4))), "size 1e.12.*not finite"),
}


def test_there_is_a_specimen_for_every_check():
    assert set(CAUGHT) == set(testing.CHECKS)


@pytest.mark.parametrize("name", CAUGHT)
def test_catches(name):
    subject, message = CAUGHT[name]
    assert testing.CHECKS[name].applies(subject)
    with pytest.raises(Exception, match=f"(?s){message}"):
        testing.CHECKS[name](subject)


def test_catches_params_kept_in_the_state():
    with pytest.raises(AssertionError, match=r"state.*anchor.*shares its buffer with.*params"):
        testing.CHECKS["donation"](Subject(broken.keeps_params))


def momentum_over_the_axis():
    """A user's own transformation, done right: the mean of everybody's running mean."""

    def init(params):
        return broken.Anchor(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **extra):
        del params, extra
        mean = jax.tree.map(lambda m, u: 0.5 * m + 0.5 * u, state.anchor, updates)
        return axis.mean(mean, "clients"), broken.Anchor(mean)

    return optax.GradientTransformationExtraArgs(init, update)


def polyak():
    """A user's own step size from the loss and the gradient elsewhere."""

    def update(updates, state, params=None, *, value=None, grad_fn=None, **extra):
        del extra
        if params is None:
            raise ValueError("polyak needs params.")
        ahead = grad_fn(params)
        rate = jnp.minimum(1e-3, jnp.asarray(value, jnp.float32))
        blend = lambda u, g: (-rate * (u + g) / 2).astype(u.dtype)
        return jax.tree.map(blend, updates, ahead), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (momentum_over_the_axis, {"needs": ("axis",), "kind": "aggregate"}),
        (polyak, {"needs": ("value", "grad_fn")}),
        (optax.scale_by_adam, {"kind": "direction"}),
    ],
    ids=["axis", "extras", "direction"],
)
def test_passes_what_is_right(factory, options):
    run = testing.check_transformation(factory, **options)
    assert len(run) >= 43


@pytest.mark.parametrize(
    ("factory", "known"),
    [
        (lambda: optax.sgd(1e-3), set()),
        (lambda: optax.adam(1e-1), set()),
        (lambda: optax.adamw(1e-2), set()),
        (lambda: optax.lion(1e-3), set()),
        (lambda: optax.contrib.muon(1e-2), {"no_float64_leak", "empty_leaf"}),
        (
            lambda: optax.contrib.dog(1.0),
            {"donation", "abstract_init", "mixed_float32_float64", "params_none"},
        ),
    ],
    ids=["sgd", "adam", "adamw", "lion", "muon", "dog"],
)
def test_finds_what_optax_is_known_to_fail(factory, known):
    found = set()
    try:
        testing.check_transformation(factory)
    except testing.ConformanceError as error:
        found = set(error.failures)
    # Later versions of optax may do better.
    assert found == known if optax.__version__ == "0.2.8" else found <= known


@pytest.mark.parametrize(
    ("factory", "check"),
    [
        (lambda: optax.contrib.dowg(1.0), "donation"),
        (lambda: optax.contrib.cocob(), "donation"),
        (lambda: optax.contrib.madgrad(1e-2), "donation"),
        (lambda: optax.contrib.prodigy(1e-1), "zero_gradient"),
        (lambda: optax.contrib.dadapt_adamw(1e-1), "sharding_types"),
        (lambda: optax.sm3(1e-1), "scalar_leaf"),
        (lambda: optax.novograd(1e-2), "params_none"),
        (lambda: optax.contrib.galore(1e-2, rank=8), "none_leaf"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
@pytest.mark.skipif(optax.__version__ != "0.2.8", reason="what this version is known to fail")
def test_finds_more_known_failures(factory, check):
    with pytest.raises(testing.ConformanceError, match=check):
        testing.check_transformation(factory, checks=[check])


def test_error_names_every_failed_check_and_keeps_what_it_raised():
    names = ["donation", "no_retrace", "zero_gradient"]
    with pytest.raises(AssertionError, match=r"(?s)1 failed.*donation.*shares") as caught:
        testing.check_transformation(broken.aliasing, checks=names)
    assert isinstance(caught.value, testing.ConformanceError)
    assert list(caught.value.failures) == ["donation"]


def test_skips_with_a_reason_and_runs_only_what_is_asked():
    run = testing.check_transformation(
        broken.aliasing,
        checks=["no_retrace", "donation"],
        skip={"donation": "the state is meant to alias"},
    )
    assert run == ("no_retrace",)


def test_takes_extras_that_it_does_not_know():
    def update(updates, state, params=None, *, temperature, **_):
        return jax.tree.map(lambda u: -temperature * u, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    testing.check_transformation(
        lambda: tx,
        needs=["temperature"],
        extras={"temperature": lambda at: 0.01},
        checks=["update_jit_equals_eager", "masked"],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": {"donations": "why not"}}, r"skip must name checks, got \['donations'\]"),
        ({"skip": {"donation": " "}}, r"skip\['donation'\] must be a reason"),
        ({"checks": ["speed"]}, r"checks must name checks, got \['speed'\]"),
        ({"needs": ["vibes"]}, r"nobody supplies \['vibes'\]"),
        ({"kind": "schedule"}, "kind must be one of aggregate, alias"),
        ({"axis_name": ("a", "b")}, "axis_name must be one name"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_refuses_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        testing.check_transformation(lambda: optax.sgd(1e-3), **options)


def test_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match="must return a transformation"):
        testing.check_transformation(lambda: jnp.zeros(3))


def test_refuses_an_unknown_entry():
    with pytest.raises(ValueError, match="did you mean 'diffgrad'"):
        testing.subject("difgrad")


def test_import_is_light():
    code = (
        "import sys, gradax; assert 'gradax.testing' not in sys.modules; import gradax.testing; "
        "heavy = {'pytest', 'chex', 'flax', 'orbax'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_lists_every_check():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "api" / "testing.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    checks = testing.CHECKS | testing.FORM_CHECKS
    assert dict(rows) == {name: check.summary for name, check in checks.items()}
