"""muon_dimension_numbers: which leaves are hidden matrices, by name and rank; overrides."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gradax import optimizers

#: How a leaf is read: rows, columns, and how many matrices there are.
CASES = {
    # Rank two, whatever it is called.
    "w1": ((4, 6), (4, 6, 1)),
    "0/1": ((4, 6), (4, 6, 1)),
    "Dense_0/kernel": ((4, 6), (4, 6, 1)),
    "mlp/~/linear_0/w": ((4, 6), (4, 6, 1)),
    "block0/attention.query_key_value/kernel": ((4, 6), (4, 6, 1)),
    "layers/w": ((4, 6), (4, 6, 1)),
    "lora_b": ((4, 6), (4, 6, 1)),
    "attention/out_proj/kernel": ((4, 6), (4, 6, 1)),
    "output/dense/kernel": ((4, 6), (4, 6, 1)),
    "position_wise/kernel": ((4, 6), (4, 6, 1)),
    "multi_head/kernel": ((4, 6), (4, 6, 1)),
    "MultiHeadDotProductAttention_0/kernel": ((4, 6), (4, 6, 1)),
    "head_mixer/kernel": ((4, 6), (4, 6, 1)),
    "text_embedder/block/Dense_0/kernel": ((4, 6), (4, 6, 1)),
    # Embeddings, output layers, norms and vectors.
    **dict.fromkeys(
        [
            *("wte", "wte/w", "Embed_0/embedding", "embed_tokens/weight", "token_embedding"),
            *("PositionEmbedding_0/kernel", "pos_emb", "patch_embed/kernel", "cls_token"),
            *("head", "head/kernel", "LMHead_0/kernel", "lm_head/0/kernel", "policy_head/w"),
            *("logits_dense/kernel", "classifier/kernel", "unembed/w", "output_layer/w"),
            *("output_projection/kernel", "readout/w", "LayerNorm_0/w", "ln_1/g", "rmsnorm/g"),
            *("attention/query/bias", "scan/up/bias", "layers/norm/scale", "gamma"),
        ],
        ((4, 6), None),
    ),
    # Higher rank: kernels as Flax makes them.
    "Conv_0/kernel": ((3, 3, 4, 5), (36, 5, 1)),
    "Conv_1/kernel": ((3, 4, 5), (12, 5, 1)),
    "Conv_2/kernel": ((2, 3, 3, 4, 5), (72, 5, 1)),
    "stem/kernel": ((3, 3, 4, 5), (36, 5, 1)),
    "Attention_0/query/kernel": ((8, 2, 4), (8, 8, 1)),
    "att/value/kernel": ((8, 2, 3), (8, 6, 1)),
    "att/out/kernel": ((2, 3, 8), (6, 8, 1)),
    "unet/out/kernel": ((3, 3, 4, 5), (36, 5, 1)),
    "experts/kernel": ((5, 4, 6), (4, 6, 5)),
    "Conv_0/w": ((3, 3, 4, 5), None),
    "anything": ((5, 4, 6), None),
    # Layers stacked by a scan.
    "ScanBlock_0/Dense_0/kernel": ((7, 4, 6), (4, 6, 7)),
    "layers/w1": ((7, 4, 6), (4, 6, 7)),
    "blocks/attention/key/kernel": ((7, 8, 2, 4), (8, 8, 7)),
    "blocks/query/kernel": ((7, 8, 8), (8, 8, 7)),
    "scan/Attention_0/out/kernel": ((7, 2, 3, 8), (6, 8, 7)),
    "scan_stage/Conv_0/kernel": ((7, 3, 3, 4, 5), (36, 5, 7)),
    "scan/experts/kernel": ((7, 5, 4, 6), (4, 6, 35)),
    "layers/0/Attention_0/query/kernel": ((8, 2, 4), (8, 8, 1)),
    "layers/Conv_0/kernel": ((3, 3, 4, 5), (36, 5, 1)),
    "scan/embed/embedding": ((7, 4, 6), None),
    # No matrix at all.
    "w": ((4,), None),
    "kernel": ((), None),
}


def _nested(name, leaf):
    for key in reversed(name.split("/")):
        leaf = {key: leaf}
    return leaf


def _read(spec, shape):
    """Rows, columns and number of the matrices that a specification finds in a leaf."""
    if spec is None:
        return None
    sizes = [
        int(np.prod([shape[k] for k in ((axes,) if isinstance(axes, int) else axes)]))
        for axes in spec
    ]
    return (*sizes, int(np.prod(shape)) // (sizes[0] * sizes[1]))


def _specs(tree):
    return jax.tree.leaves(tree, is_leaf=lambda node: node is None or hasattr(node, "output_axis"))


@pytest.mark.parametrize("name", CASES)
def test_names_and_ranks_tell_hidden_matrices(name):
    shape, expected = CASES[name]
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    for params in ({name: leaf}, _nested(name, leaf)):  # one key, or a tree of modules
        (spec,) = _specs(optimizers.muon_dimension_numbers(params))
        assert _read(spec, shape) == expected


def test_a_single_array_is_a_matrix_if_it_has_rank_two():
    assert _read(optimizers.muon_dimension_numbers(jnp.ones((2, 3))), (2, 3)) == (2, 3, 1)
    assert optimizers.muon_dimension_numbers(jnp.ones((2, 3, 4))) is None


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.relu(nn.Dense(16)(x))), None


_SCAN = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)


class _Model(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        if self.scanned:
            x, _ = _SCAN()(x, None)
        else:
            x, _ = _Block()(x, None)
        return nn.Dense(11, name="head")(nn.LayerNorm()(x))


@pytest.mark.parametrize("scanned", [False, True])
def test_a_flax_transformer(scanned):
    model, tokens = _Model(scanned), jnp.zeros((1, 4), int)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    layers = 3 if scanned else 1
    block = next(iter(name for name in params if "Block" in name))
    found = optimizers.muon_dimension_numbers(params)
    read = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _read(spec, leaf.shape)
        for (path, leaf), spec in zip(
            jax.tree_util.tree_leaves_with_path(params), _specs(found), strict=True
        )
    }
    attention = f"{block}/MultiHeadDotProductAttention_0"
    assert {name: sizes for name, sizes in read.items() if sizes} == {
        **{
            f"{attention}/{name}/kernel": (8, 8, layers)
            for name in ("query", "key", "value", "out")
        },
        f"{block}/Dense_0/kernel": (16, 8, layers),
        f"{block}/Dense_1/kernel": (8, 16, layers),
    }


def test_a_flax_nnx_module():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(7, 8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 6, rngs=rngs)])

    params = nnx.state(nnx.eval_shape(lambda: Model(nnx.Rngs(0))), nnx.Param)
    leaves = jax.tree.leaves(params)
    found = [
        _read(spec, leaf.shape)
        for spec, leaf in zip(
            _specs(optimizers.muon_dimension_numbers(params)), leaves, strict=True
        )
    ]
    assert sorted(filter(None, found)) == [(8, 6, 1)] + [(8, 8, 1)] * 4 + [(27, 4, 1)]


def test_exclude_include_and_stacked_overrule_the_names():
    shapes = {
        "Dense_0": (4, 4),
        "Dense_1": (4, 4),
        "embed": (4, 6),
        "head": (2, 4, 6),
        "own": (3, 4),
    }
    params = {name: {"kernel": jnp.zeros(shape)} for name, shape in shapes.items()}

    def found(**options):
        specs = optimizers.muon_dimension_numbers(params, **options)
        read = {name: _read(specs[name]["kernel"], shape) for name, shape in shapes.items()}
        return {name: sizes for name, sizes in read.items() if sizes}

    first, last, own = {"Dense_0": (4, 4, 1)}, {"Dense_1": (4, 4, 1)}, {"own": (3, 4, 1)}
    assert found() == first | last | own
    assert found(exclude="Dense_1/") == first | own
    assert found(exclude=["Dense_[01]/kernel$", "^own"]) == {}
    assert found(include="embed") == first | last | own | {"embed": (4, 6, 1)}
    assert found(include="embed", exclude="embed") == first | last | own
    assert found(include="^head/") == first | last | own | {"head": (4, 6, 2)}
    # Rank two below a stack: a vector for each layer.
    assert found(stacked="own") == first | last


def test_a_hidden_leaf_is_the_same_with_others_masked_out():
    params = {"layers": {"conv": {"kernel": jnp.zeros((3, 3, 4, 5)), "bias": jnp.zeros(5)}}}
    masked = {
        "layers": {
            "conv": {"kernel": params["layers"]["conv"]["kernel"], "bias": optax.MaskedNode()}
        }
    }
    whole, part = map(optimizers.muon_dimension_numbers, (params, masked))
    assert whole["layers"]["conv"]["kernel"] == part["layers"]["conv"]["kernel"]


def test_muon_takes_adamw_where_no_hidden_matrix_is_found():
    shapes = {"wte": (5, 4), "Dense_0": (4, 6), "scan": (3, 4, 4), "Conv_0": (2, 2, 3, 4)}
    draw = np.random.default_rng(1).normal
    grads = {name: {"kernel": jnp.asarray(draw(size=shape))} for name, shape in shapes.items()}
    step = lambda tx: tx.update(grads, tx.init(grads), grads)[0]
    ours = step(optimizers.muon(0.1, orthogonalizer="svd", scale="none"))
    adam = step(optax.adamw(0.1, weight_decay=0.0, nesterov=True))
    np.testing.assert_allclose(ours["wte"]["kernel"], adam["wte"]["kernel"], rtol=1e-5)
    exact = lambda name, *shape: (
        -0.1
        * optimizers.orthogonalize(grads[name]["kernel"].reshape(shape), "svd").reshape(
            shapes[name]
        )
    )
    for name, shape in (("Dense_0", (4, 6)), ("scan", (3, 4, 4)), ("Conv_0", (12, 4))):
        np.testing.assert_allclose(ours[name]["kernel"], exact(name, *shape), atol=1e-6)
    named = functools.partial(optimizers.muon_dimension_numbers, exclude="Dense")
    other = step(optimizers.muon(0.1, muon_weight_dimension_numbers=named))
    np.testing.assert_allclose(other["Dense_0"]["kernel"], adam["Dense_0"]["kernel"], rtol=1e-5)


@pytest.mark.parametrize("name", ["exclude", "include", "stacked"])
@pytest.mark.parametrize("value", ["(", [3]])
def test_rejects_what_is_no_pattern(name, value):
    with pytest.raises(ValueError, match=f"muon_dimension_numbers: {name} must be regular"):
        optimizers.muon_dimension_numbers({}, **{name: value})
