"""Learn to relax: a bandit chooses the parameter of SOR for one linear system after another.

    python examples/sor_bandit.py --plot sor_bandit.png

The systems are five-point Laplacians plus ``c`` times the identity, with another ``c`` and another
right-hand side each time. The best relaxation depends on ``c``. Tsallis-INF sees nothing but the
number of iterations of what it chose; ChebCB is told ``c`` before it chooses.
"""

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax import schedules

TOLERANCE, MAX_ITERATIONS = 1e-8, 10_000
LOWEST, HIGHEST = -0.15, 0.45  # of c


class Systems(NamedTuple):
    """A sequence of linear systems ``(laplacian + c I) x = b``."""

    laplacian: jax.Array
    offsets: jax.Array
    targets: jax.Array


def make_systems(number: int, side: int, seed: int = 0) -> Systems:
    """Draws offsets with many small and few large ones, and targets of bounded length."""
    line = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    laplacian = np.kron(line, np.eye(side)) + np.kron(np.eye(side), line)
    rng, size = np.random.default_rng(seed), side**2
    targets = rng.normal(size=(number, size))
    length = np.linalg.norm(targets, axis=1, keepdims=True)
    targets *= np.minimum(1, np.sqrt(size) / length)
    offsets = LOWEST + (HIGHEST - LOWEST) * rng.beta(0.5, 1.5, number)
    return Systems(*map(jnp.asarray, (laplacian, offsets, targets)))


def sor_solve(matrix, target, omega):
    """Successive over-relaxation from zero; returns the solution and the number of iterations."""
    identity = jnp.eye(len(target))
    # x <- x + T^-1 r and r <- b - A x, with the same triangle T each time: an iteration is one
    # product, r <- (1 - A T^-1) r, and the solution is T^-1 times the sum of all residuals.
    triangle = jnp.tril(matrix, -1) + jnp.diag(jnp.diagonal(matrix)) / omega
    inverse = jax.scipy.linalg.solve_triangular(triangle, identity, lower=True)
    remains = identity - matrix @ inverse
    enough = TOLERANCE * jnp.linalg.norm(target)

    def iterate(carry):
        total, residual, count = carry
        return total + residual, remains @ residual, count + 1

    def goes_on(carry):
        _, residual, count = carry
        return (jnp.linalg.norm(residual) >= enough) & (count < MAX_ITERATIONS)

    total, _, count = jax.lax.while_loop(goes_on, iterate, (jnp.zeros_like(target), target, 0))
    return inverse @ total, count


def iterations(systems, number, omega):
    """What the system of that number costs with a relaxation."""
    size = systems.laplacian.shape[0]
    matrix = systems.laplacian + systems.offsets[number] * jnp.eye(size)
    return sor_solve(matrix, systems.targets[number], omega)[1]


@jax.jit
def all_costs(systems, grid):
    """Iterations of every system with every relaxation, ``[systems, grid]``."""
    of_one = lambda number: jax.vmap(lambda omega: iterations(systems, number, omega))(grid)
    return jax.lax.map(of_one, jnp.arange(len(systems.offsets)))


def play(bandit, systems, key, sees_offset):
    """Iterations along the sequence, each system solved with what the bandit chose for it."""
    following = jnp.roll(systems.offsets, -1)  # the last is followed by none
    state = bandit.init(key, systems.offsets[0]) if sees_offset else bandit.init(key)

    def solve_next(state, inputs):
        number, context = inputs
        cost = iterations(systems, number, bandit.value(state))
        # A bandit with contexts is told that of the system to come, for which it chooses now.
        state = bandit.update(state, cost, context) if sees_offset else bandit.update(state, cost)
        return state, cost

    return jax.lax.scan(solve_next, state, (jnp.arange(len(following)), following))[1]


def draw(path, runs):
    """Saves a figure of the mean number of iterations so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, costs in runs.items():
        rounds = np.arange(1, len(costs) + 1)
        style = "-" if name in ("Tsallis-INF", "ChebCB") else "--"
        axes.plot(rounds, np.cumsum(costs) / rounds, style, label=name)
    axes.set(xlabel="systems solved", ylabel="mean number of iterations so far", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main(argv=None):
    """Solves the sequence with both bandits and with every relaxation of the grid."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--systems", type=int, default=300, help="length of the sequence")
    parser.add_argument("--side", type=int, default=8, help="points along one side of the square")
    parser.add_argument("--omegas", type=int, default=10, help="relaxations from 1 to 1.95")
    parser.add_argument("--features", type=int, default=5, help="terms of ChebCB's series")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="where to save a figure")
    options = parser.parse_args(argv)
    grid = np.linspace(1.0, 1.95, options.omegas)
    # A residual of 1e-8 is out of reach of 32 bits.
    with jax.enable_x64(True):
        systems = make_systems(options.systems, options.side, options.seed)
        table = np.asarray(all_costs(systems, jnp.asarray(grid)))
        bandits = {
            "Tsallis-INF": (schedules.tsallis_inf(grid), False),
            "ChebCB": (schedules.cheb_cb(grid, options.features, LOWEST, HIGHEST), True),
        }
        run, key = jax.jit(play, static_argnums=(0, 3)), jax.random.key(options.seed)
        chosen = {
            name: np.asarray(run(bandit, systems, key, sees))
            for name, (bandit, sees) in bandits.items()
        }
    best = table.mean(axis=0).argmin()
    runs = {
        "omega = 1 (Gauss-Seidel)": table[:, 0],
        "any omega, drawn evenly": table.mean(axis=1),
        f"best fixed omega, {grid[best]:.2f}": table[:, best],
        "best omega for each system": table.min(axis=1),
        **chosen,
    }
    late = options.systems // 3
    print(f"{'iterations of SOR, mean over':<30}{'all':>8}{f'last {late}':>10}")
    for name, costs in runs.items():
        print(f"{name:<30}{costs.mean():>8.1f}{costs[-late:].mean():>10.1f}")
    if options.plot:
        draw(options.plot, runs)
        print(f"figure: {options.plot}")
    return runs


if __name__ == "__main__":
    main()
