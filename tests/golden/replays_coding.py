"""Replays of the golden files of gradient codes and sequential gradient codes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gradax.federated import coding

Case = dict[str, Any]

#: What a worker does in a round: nothing, or nothing that arrives.
_NONE, _LOST = -9, -1


def replay_gradient_coding(case: Case) -> Case:
    """A code with its messages and decoding weights, or the schedule of a sequential code."""
    return _replay_code(case) if "H" in case else _replay_schedule(case)


def _replay_code(case):
    hp, parts = case["hyperparams"], np.array(case["partial_gradients"])
    code = coding.cyclic_code(hp["n"], hp["s"], parity=case["H"])
    pieces = parts[coding.support(code)]
    numbers = range(hp["n"])
    # NumPy's float64 would lose its digits on the way through an encoder of 32 bits.
    coded = np.stack([code[i, coding.support(code)[i]] @ pieces[i] for i in numbers])
    decodings = []
    for one in case["decodings"]:
        weights = coding.decode_vector(code, ~np.isin(numbers, one["stragglers"]))
        decodings.append({"decode": weights.tolist(), "check": (weights @ coded).tolist()})
    return {"B": code.tolist(), "coded": coded.tolist(), "decodings": decodings}


def _replay_schedule(case):
    hp = case["hyperparams"]
    sequential = {"sr_sgc": coding.SRSGC, "m_sgc": coding.MSGC}[hp["scheme"]]
    scheme = sequential(hp["n"], hp["B"], hp["W"], hp["lam"])
    requested = np.array(case["requested_stragglers"], bool)
    run = coding.simulate_rounds(scheme, np.where(requested, 10.0, 1.1), mu=0.0)
    described = {"T": scheme.delay, "load": scheme.load}
    if hp["scheme"] == "sr_sgc":
        described["s"] = scheme.s
    state = {"sr_sgc": _returned_jobs, "m_sgc": _minitasks}[hp["scheme"]](scheme, run.stragglers)
    return {
        "hyperparams": described,
        "state": state.tolist(),
        "round_durations": run.durations.tolist(),
    }


def _returned_jobs(scheme, stragglers):
    """The job whose combination each worker returned in each round."""
    state = np.where(stragglers, _LOST, 0)
    for r, tasks in _play(scheme, stragglers):
        for task in tasks:
            if not stragglers[task.worker, r]:
                state[task.worker, r] = task.job
    return state


def _minitasks(scheme, stragglers):
    """Of each worker, age of the job and round: 0 a plain part, else the number of the group."""
    n, rounds = stragglers.shape
    state = np.full((n, scheme.delay + 1, rounds), _NONE)
    for r, tasks in _play(scheme, stragglers):
        for task in tasks:
            state[task.worker, r - task.job, r] = 0 if task.kind == "plain" else task.part + 1
    return np.where(stragglers[:, None], _LOST, state)


def _play(scheme, stragglers):
    scheme.reset()
    for r, late in enumerate(stragglers.T):
        yield r, scheme.next_round()
        scheme.report(late)


REPLAYS: dict[str, Callable[[Case], Case]] = {"gradient_coding": replay_gradient_coding}
TOLERANCES: dict[str, float] = {"gradient_coding": 1e-10}
