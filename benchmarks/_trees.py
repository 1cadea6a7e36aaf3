"""The parameter trees on which optimizers are measured."""

import jax
import jax.numpy as jnp
import numpy as np

Tree = dict[str, jax.Array]

WIDTH, LAYERS = 256, 12


def matrix() -> dict[str, tuple[int, ...]]:
    """One matrix of 4.2 million parameters."""
    return {"kernel": (2048, 2048)}


def residual_network(width: int = 41) -> dict[str, tuple[int, ...]]:
    """A residual network with bottlenecks: 161 leaves, 11.0 million parameters."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, size: int, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"] = (size, size, inputs, outputs)
        shapes[f"{name}/scale"] = shapes[f"{name}/offset"] = (outputs,)

    convolution("stem", 7, 3, width)
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            convolution(f"{name}/reduce", 1, channels, inner)
            convolution(f"{name}/middle", 3, inner, inner)
            convolution(f"{name}/expand", 1, inner, 4 * inner)
            if block == 0:
                convolution(f"{name}/shortcut", 1, channels, 4 * inner)
            channels = 4 * inner
    shapes["head/kernel"], shapes["head/bias"] = (channels, 1000), (1000,)
    return shapes


def transformer_blocks() -> dict[str, tuple[int, ...]]:
    """Twelve blocks, 256 wide: 48 matrices and 96 vectors, 9.5 million parameters."""
    shapes: dict[str, tuple[int, ...]] = {}
    sizes = {
        "query_key_value": (WIDTH, 3 * WIDTH),
        "projection": (WIDTH, WIDTH),
        "up": (WIDTH, 4 * WIDTH),
        "down": (4 * WIDTH, WIDTH),
    }
    for layer in range(LAYERS):
        for name, (inputs, outputs) in sizes.items():
            shapes[f"block{layer}/{name}/kernel"] = (inputs, outputs)
            shapes[f"block{layer}/{name}/bias"] = (outputs,)
        for name in ("attention_norm", "feedforward_norm"):
            shapes[f"block{layer}/{name}/scale"] = (WIDTH,)
            shapes[f"block{layer}/{name}/offset"] = (WIDTH,)
    return shapes


def transformer() -> dict[str, tuple[int, ...]]:
    """The blocks with embeddings and a last norm: 148 leaves, 11.7 million parameters."""
    return transformer_blocks() | {
        "token_embedding": (8192, WIDTH),
        "position_embedding": (512, WIDTH),
        "last_norm/scale": (WIDTH,),
        "last_norm/offset": (WIDTH,),
    }


def normal(shapes: dict[str, tuple[int, ...]], seed: int, scale: float) -> Tree:
    """Fills the shapes with random numbers."""
    # By NumPy: jax.random compiles once for every shape, a quarter of a minute in all.
    rng = np.random.default_rng(seed)
    draw = lambda shape: scale * rng.standard_normal(shape, np.float32)
    return {name: jnp.array(draw(shape)) for name, shape in shapes.items()}
