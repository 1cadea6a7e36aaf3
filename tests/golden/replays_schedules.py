"""Replays of the golden files on schedules and partitioners, through the public interface."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated, schedules


def last_iterate_linear_decay(case):
    """Runs the schedule with plain SGD over the recorded gradients."""
    hp = case["hyperparams"]
    arrays = lambda tree: {name: jnp.asarray(value) for name, value in tree.items()}
    with jax.enable_x64(True):
        schedule = schedules.last_iterate_schedule(hp["lipschitz"], hp["radius"], hp["num_steps"])
        tx = optax.sgd(schedule)
        params = arrays(case["params0"])
        update, state, trajectory = jax.jit(tx.update), tx.init(params), []
        for grads in case["grads"]:
            updates, state = update(arrays(grads), state)
            params = optax.apply_updates(params, updates)
            trajectory.append({name: np.asarray(value) for name, value in params.items()})
        steps = np.asarray(schedule(jnp.arange(len(case["grads"]))))
    return {"params": trajectory, "outputs": {"step_sizes": steps}}


def refined_schedule(case):
    """Smooths, weighs and normalises; the table is read back through the schedule."""
    hp, norms = case["hyperparams"], case["inputs"]["grad_norms"]
    smoothed = schedules.smooth_gradient_norms(norms, hp["smoothing"])
    products = schedules.refine_schedule(norms, **hp, normalize=False)
    table = schedules.refine_schedule(norms, **hp)
    # The recorded table counts weights in units of the last one, an arbitrary factor.
    last_weight = smoothed[-1] ** -{"l2": 2, "l1": 1}[hp["norm"]]
    with jax.enable_x64(True):
        values = np.asarray(schedules.refined_schedule(1.0, table)(jnp.arange(len(norms))))
    outputs = {
        "smoothed": smoothed,
        "schedule_unnormalised": products / last_weight,
        "schedule": values,
    }
    return {"outputs": outputs}


def partitioners(case):
    """Splits the recorded labels by the rule that the kind of the case names."""
    hp, labels = case["hyperparams"], np.array(case["labels"])
    common = {"shuffle": hp.get("shuffle", False), "seed": hp["seed"]}
    num_clients, kind = hp["num_partitions"], case["kind"]
    if kind.startswith("dirichlet"):
        parts = federated.data.partition_dirichlet(
            labels,
            num_clients,
            hp["alpha"],
            min_size=hp["min_partition_size"],
            balance=hp["self_balancing"],
            **common,
        )
    elif kind.startswith("pathological"):
        mode = hp["class_assignment_mode"].replace("-", "_")
        classes = hp["num_classes_per_partition"]
        parts = federated.data.partition_pathological(labels, num_clients, classes, mode, **common)
    elif kind == "shard":
        shards, keep = hp["num_shards_per_partition"], hp["keep_incomplete_shard"]
        parts = federated.data.partition_shards(labels, num_clients, shards, keep, **common)
    elif kind == "iid":
        parts = federated.data.partition_iid(labels.size, num_clients, **common)
    else:
        parts = federated.data.partition_sizes(labels.size, num_clients, kind, **common)
    return {"partitions": [part.tolist() for part in parts]}


REPLAYS = {
    "last_iterate_linear_decay": last_iterate_linear_decay,
    "refined_schedule": refined_schedule,
    "partitioners": partitioners,
}

TOLERANCES = {"last_iterate_linear_decay": 1e-12, "refined_schedule": 1e-12, "partitioners": 0.0}
