"""The convolution of matrix products is JAX's, and stays fast inside loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import gradax

NHWC = ("NHWC", "HWIO", "NHWC")


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def agree(images, kernel, *arguments, **options):
    def run(convolve):
        value = lambda x, k: convolve(x, k, *arguments, **options)
        out, pull = jax.vjp(value, images, kernel)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *pull(weights)

    ours, theirs = (jax.jit(run, static_argnums=0)(f) for f in FORMS)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


FORMS = (gradax.conv_general_dilated, lax.conv_general_dilated)


@pytest.mark.parametrize("inputs", [1, 7])
@pytest.mark.parametrize(
    ("strides", "padding", "dilation"),
    [
        ((1, 1), "SAME", None),
        ((1, 2), "VALID", (2, 1)),
        ((2, 3), [(2, 0), (1, 3)], (1, 2)),
        ((1, 1), [(-1, 2), (0, 0)], None),
    ],
)
def test_values_and_gradients(inputs, strides, padding, dilation):
    images, kernel = draw((3, 11, 10, inputs), (5, 3, inputs, 4))
    agree(images, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=NHWC)


@pytest.mark.parametrize("order", [None, ("CHWN", "OIHW", "NCHW")])
def test_orders_of_axes(order):
    shape = (3, 5, 8, 9) if order is None else (5, 8, 9, 3)
    images, kernel = draw(shape, (4, 5, 5, 3))
    agree(images, kernel, (1, 1), "SAME", dimension_numbers=order)


@pytest.mark.parametrize(
    ("shapes", "strides", "options"),
    [
        (((2, 9, 3), (4, 3, 5)), (1,), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
        (((2, 9, 9, 4), (3, 3, 2, 6)), (1, 1), {"feature_group_count": 2}),
        (((2, 9, 9, 4), (3, 3, 4, 6)), (1, 1), {"lhs_dilation": (2, 1)}),
    ],
)
def test_others_are_left_to_jax(shapes, strides, options):
    images, kernel = draw(*shapes)
    padding = [(1, 0)] * len(strides)
    agree(images, kernel, strides, padding, **{"dimension_numbers": NHWC, **options})


def test_preferred_element_type():
    images, kernel = draw((2, 6, 6, 3), (3, 3, 3, 2))
    halves = images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    options = {"dimension_numbers": NHWC, "preferred_element_type": jnp.float32}
    ours, theirs = (f(*halves, (1, 1), "SAME", **options) for f in FORMS)
    assert ours.dtype == theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-1)


def test_in_a_flax_model_no_convolution_is_left_in_the_loop():
    def loop(convolve):
        rngs = nnx.Rngs(0)
        layers = [
            nnx.Conv(inputs, outputs, (5, 5), conv_general_dilated=convolve, rngs=rngs)
            for inputs, outputs in ((1, 4), (4, 6))
        ]
        graph, params = nnx.split(nnx.List(layers))

        def loss(params, x):
            for layer in nnx.merge(graph, params):
                x = nnx.relu(layer(x))
            return jnp.mean(x**2)

        def step(params, x):
            return optax.apply_updates(
                params, jax.tree.map(jnp.negative, jax.grad(loss)(params, x))
            ), None

        return jax.jit(lambda params, xs: lax.scan(step, params, xs)[0]), params

    (xs,) = draw((2, 3, 12, 12, 1))
    compiled = {}
    for convolve in FORMS:
        run, params = loop(convolve)
        compiled[convolve] = run.lower(params, xs).compile()
    ours, theirs = (compiled[convolve](params, xs) for convolve in FORMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    texts = [compiled[convolve].as_text() for convolve in FORMS]
    assert [" convolution(" in text for text in texts] == [False, True]


def test_second_derivatives():
    images, kernel = draw((2, 6, 6, 3), (5, 5, 3, 2))

    def curvature(convolve):
        value = lambda k: jnp.sum(convolve(images, k, (1, 1), "SAME", dimension_numbers=NHWC) ** 3)
        return jax.jvp(jax.grad(value), (kernel,), (jnp.ones_like(kernel),))[1]

    ours, theirs = map(curvature, FORMS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-2)
