"""Tsallis-INF and ChebCB choose the relaxation of SOR along a sequence of linear systems."""

import jax
import jax.numpy as jnp
import numpy as np

from examples import sor_bandit
from gradax import schedules

from ._record import Reproduction

SYSTEMS, SIDE, LATE, TRIALS, FEATURES = 600, 8, 200, 20, 6
GRID = np.linspace(1.0, 1.95, 20)


def play(bandit, costs, contexts, key):
    """Costs of a bandit along the rows of a table; ``contexts`` is ``None`` if it reads none."""
    contextual = contexts is not None
    state = bandit.init(key, contexts[0]) if contextual else bandit.init(key)
    following = jnp.roll(contexts, -1) if contextual else jnp.zeros(len(costs))

    def round_(state, inputs):
        row, context = inputs
        cost = row[state.action]
        return bandit.update(state, cost, *([context] if contextual else [])), cost

    return jax.lax.scan(round_, state, (costs, following))[1]


def trials(bandit, costs, contexts):
    """Costs of all trials, ``[trials, systems]``."""
    keys = jax.random.split(jax.random.key(0), TRIALS)
    return np.asarray(jax.jit(jax.vmap(lambda key: play(bandit, costs, contexts, key)))(keys))


def run() -> Reproduction:
    """A table of all costs, and what each of the two bandits pays along it."""
    with jax.enable_x64(True):
        systems = sor_bandit.make_systems(SYSTEMS, SIDE)
        table = np.asarray(sor_bandit.all_costs(systems, jnp.asarray(GRID)))
        offsets = np.asarray(systems.offsets)
    costs = jnp.asarray(table, jnp.float32)
    contexts = jnp.asarray(offsets, jnp.float32)
    low, high = sor_bandit.LOWEST, sor_bandit.HIGHEST
    runs = {
        "Tsallis-INF": trials(schedules.tsallis_inf(GRID), costs, None),
        "ChebCB": trials(schedules.cheb_cb(GRID, FEATURES, low, high), costs, contexts),
    }
    best = int(table.mean(axis=0).argmin())
    fixed, optimal, evenly = table[:, best].mean(), table.min(axis=1).mean(), table.mean()
    whole = {name: cost.mean() for name, cost in runs.items()}
    late = {name: cost[:, -LATE:].mean() for name, cost in runs.items()}
    near = lambda found, expected: abs(found - expected) <= 0.05 * expected
    rows = [
        ("omega = 1", "177", table[:, 0].mean(), table[-LATE:, 0].mean()),
        ("any omega, drawn evenly", "108.9", evenly, table[-LATE:].mean()),
        (f"best fixed omega, {GRID[best]:.2f}", "44.0", fixed, table[-LATE:, best].mean()),
        ("best omega of each system", "34.7", optimal, table[-LATE:].min(axis=1).mean()),
        ("Tsallis-INF", "61-66, 51-57", whole["Tsallis-INF"], late["Tsallis-INF"]),
        ("ChebCB", None, whole["ChebCB"], late["ChebCB"]),
    ]
    tsallis, cheb = runs
    return Reproduction(
        name="bandits",
        title="Bandits that learn to relax",
        paper="along a sequence of linear systems Tsallis-INF comes to need little more iterations "
        "of SOR than the best fixed relaxation, and ChebCB, which is told the shift of each "
        "system, about as many as the best relaxation of each "
        "([2310.02246](https://arxiv.org/abs/2310.02246)).",
        setup="the paper's systems at a smaller size: the five-point Laplacian of "
        f"{SIDE} by {SIDE} points plus c times the identity, c = -0.15 + 0.6 Beta(0.5, 1.5), "
        "Gaussian right-hand "
        f"sides of norm at most 8, tolerance 1e-8, {SYSTEMS} systems, {len(GRID)} relaxations from "
        f"1 to 1.95, ChebCB with {FEATURES} features; means of {TRIALS} runs of each bandit.",
        expected="Expected figures come from another draw of systems.",
        columns=("choice", "expected", "mean iterations", f"of the last {LATE}"),
        rows=rows,
        claims={
            "the best fixed relaxation is 1.6, and its mean within 5 % of the expected one": (
                bool(np.isclose(GRID[best], 1.6)) and near(fixed, 44.0)
            ),
            "the means of omega = 1, of an even draw and of the best of each system are within "
            "5 % of the expected ones": (
                near(table[:, 0].mean(), 177) and near(evenly, 108.9) and near(optimal, 34.7)
            ),
            "Tsallis-INF's mean lies between 61 and 66": 61 <= whole[tsallis] <= 66,
            "over the last 200 between 51 and 57": 51 <= late[tsallis] <= 57,
            "ChebCB needs less than Tsallis-INF": whole[cheb] < whole[tsallis],
            "over the last 200 ChebCB needs less than the best fixed relaxation": (
                late[cheb] < table[-LATE:, best].mean()
            ),
        },
    )


if __name__ == "__main__":
    run().save()
