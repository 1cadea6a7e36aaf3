"""Segments of rounds on the device: a scan inside one jit."""

from typing import Any

import jax
from jax import lax

from ._engine import Engine


def device_rounds(engine: Engine) -> Any:
    """Compiles segments of rounds; the state is donated.

    Args:
      engine: plays the rounds.

    Returns:
      A jitted ``(state, data, length) -> (state, metrics)``, ``length`` static; metrics have a
      leading axis of rounds.
    """
    placement, row_fields = engine.placement, engine.row_fields

    def segment(state, data, length):
        def round(state, _):
            state, metrics = engine.round(state, data)
            return placement.hold(state, row_fields), metrics

        state, metrics = lax.scan(round, state, length=length)
        return state, placement.everywhere(metrics)

    return jax.jit(segment, static_argnums=2, donate_argnums=0)
