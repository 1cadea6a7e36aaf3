"""The variables of one DADAO node: how they flow between events, and how events move them.

All functions work on one leaf: a :class:`Six` of arrays of the same shape. They are elementwise,
and the coefficients of the flow are a handful of scalars in closed form, one set per event.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Constants(NamedTuple):
    """Rates of the flow and sizes of the jumps, under the paper's names.

    Attributes:
      nu: half of the strong convexity.
      eta: rate at which ``x`` and ``x_tilde`` meet.
      alpha: rate of ``y`` and ``z`` towards their partners.
      alpha_tilde: rate of ``z_tilde`` towards ``z``.
      theta: rate at which ``y_tilde`` is driven.
      gamma: step of ``x`` at a gradient event.
      gamma_tilde: step of ``x_tilde`` at a gradient event.
      step_y: step of ``y_tilde`` at a gradient event.
      beta: step of ``z`` at an edge event.
      beta_tilde: step of ``z_tilde`` at an edge event.
    """

    nu: Any
    eta: Any
    alpha: Any
    alpha_tilde: Any
    theta: Any
    gamma: Any
    gamma_tilde: Any
    step_y: Any
    beta: Any
    beta_tilde: Any


class Six(NamedTuple):
    """The variables of a node, of one leaf.

    Attributes:
      x: parameters.
      x_tilde: their accelerated copy.
      y: the dual variable of the gradients.
      y_tilde: its accelerated copy.
      z: the dual variable of the disagreement; adds up to zero over the nodes.
      z_tilde: its accelerated copy.
    """

    x: jax.Array
    x_tilde: jax.Array
    y: jax.Array
    y_tilde: jax.Array
    z: jax.Array
    z_tilde: jax.Array


class Flow(NamedTuple):
    """Coefficients of the flow over one span of time, scalars.

    Attributes:
      x: by how much of their distance ``x`` and ``x_tilde`` approach each other.
      z: likewise ``z``.
      z_tilde: likewise ``z_tilde``.
      from_y: what ``y`` and ``y_tilde`` receive of ``y``, beyond their own values.
      from_y_tilde: likewise of ``y_tilde``.
      from_rest: likewise of the part of ``z + nu x_tilde`` that stays.
      from_x: likewise of the part that dies out with ``x_tilde - x``.
      from_z: likewise of the part that dies out with ``z - z_tilde``.
    """

    x: jax.Array
    z: jax.Array
    z_tilde: jax.Array
    from_y: tuple[jax.Array, jax.Array]
    from_y_tilde: tuple[jax.Array, jax.Array]
    from_rest: tuple[jax.Array, jax.Array]
    from_x: tuple[jax.Array, jax.Array]
    from_z: tuple[jax.Array, jax.Array]


def make_constants(strong_convexity: Any, smoothness: Any, chi1: Any) -> Constants:
    """Derives all constants from those of the losses and of the graph.

    Args:
      strong_convexity: the least of all nodes.
      smoothness: the greatest of all nodes.
      chi1: of the graph and its rates.

    Returns:
      The constants, Python floats or traced scalars as the arguments are.
    """
    nu = strong_convexity / 2
    s = (nu / smoothness) ** 0.5
    return Constants(
        nu=nu,
        eta=s / 8,
        alpha=s / 4,
        alpha_tilde=s / 8,
        theta=1 / (2 * s),
        gamma=1 / (4 * smoothness),
        gamma_tilde=1 / (4 * (nu * smoothness) ** 0.5),
        step_y=s / 4 + 1,
        beta=0.5,
        beta_tilde=2 * chi1 / s,
    )


def approach(c: Constants, time: jax.Array) -> jax.Array:
    """By how much of their distance ``x`` and ``x_tilde`` approach each other in a time."""
    return -jnp.expm1(-2 * c.eta * time) / 2


def make_flow(c: Constants, time: jax.Array) -> Flow:
    """Solves the linear flow over a span of time.

    ``y`` and ``y_tilde`` are a damped oscillator, driven by ``z + nu x_tilde``. That drive is a
    constant and two decaying parts, one with ``x_tilde - x`` and one with ``z - z_tilde``; to
    each the oscillator responds in closed form. Written with ``expm1`` and the like, so that
    short times lose no digits.

    Args:
      c: the constants.
      time: how long, a scalar.

    Returns:
      The coefficients.
    """
    mixing_z = c.alpha + c.alpha_tilde
    toward = -jnp.expm1(-mixing_z * time) / mixing_z
    omega = jnp.sqrt(c.alpha * c.theta - c.alpha**2 / 4)
    damped = jnp.exp(-c.alpha / 2 * time)
    # The oscillation's cosine less one, and its sine over the frequency.
    cosine = jnp.expm1(-c.alpha / 2 * time) - 2 * damped * jnp.sin(omega * time / 2) ** 2
    sine = damped * jnp.sin(omega * time) / omega

    def response(rate):
        """What a drive that decays at this rate adds to ``y`` and to ``y_tilde``."""
        gain = c.alpha * c.theta / (rate**2 - c.alpha * rate + c.alpha * c.theta)
        ratio = 1 - rate / c.alpha
        left = cosine - jnp.expm1(-rate * time)
        to_y = gain * (left + c.alpha * sine * (ratio - 0.5))
        return to_y, gain * (ratio * left + sine * (c.alpha * ratio / 2 - c.theta))

    return Flow(
        x=approach(c, time),
        z=c.alpha * toward,
        z_tilde=c.alpha_tilde * toward,
        from_y=(cosine - c.alpha / 2 * sine, -c.theta * sine),
        from_y_tilde=(c.alpha * sine, cosine + c.alpha / 2 * sine),
        from_rest=response(0.0),
        from_x=response(2 * c.eta),
        from_z=response(mixing_z),
    )


def flow(leaf: Six, f: Flow, c: Constants) -> Six:
    """Lets the variables of a leaf flow.

    Args:
      leaf: before.
      f: of the span of time.
      c: the constants.

    Returns:
      The variables afterwards.
    """
    half_x = (leaf.x_tilde - leaf.x) / 2
    apart_z = leaf.z - leaf.z_tilde
    decaying_z = c.alpha / (c.alpha + c.alpha_tilde) * apart_z
    rest = leaf.z - decaying_z + c.nu * (leaf.x + half_x)
    drives = leaf.y, leaf.y_tilde, rest, c.nu * half_x, decaying_z
    gains = f.from_y, f.from_y_tilde, f.from_rest, f.from_x, f.from_z
    to_y, to_y_tilde = (
        sum(gain[side] * drive for gain, drive in zip(gains, drives, strict=True))
        for side in (0, 1)
    )
    return Six(
        x=leaf.x + 2 * f.x * half_x,
        x_tilde=leaf.x_tilde - 2 * f.x * half_x,
        y=leaf.y + to_y,
        y_tilde=leaf.y_tilde + to_y_tilde,
        z=leaf.z - f.z * apart_z,
        z_tilde=leaf.z_tilde + f.z_tilde * apart_z,
    )


def take_step(leaf: Six, grad: jax.Array, c: Constants) -> Six:
    """A gradient event.

    Args:
      leaf: just before.
      grad: of the node's loss at ``x``.
      c: the constants.

    Returns:
      The variables just after.
    """
    d = grad - c.nu * leaf.x - leaf.y_tilde
    return leaf._replace(
        x=leaf.x - c.gamma * d,
        x_tilde=leaf.x_tilde - c.gamma_tilde * d,
        y_tilde=leaf.y_tilde + c.step_y * d,
    )


def exchange(leaf: Six, difference: jax.Array, c: Constants) -> Six:
    """An edge event.

    Args:
      leaf: just before.
      difference: own ``y + z`` less the other node's; zero for a node that meets nobody.
      c: the constants.

    Returns:
      The variables just after.
    """
    return leaf._replace(
        z=leaf.z - c.beta * difference, z_tilde=leaf.z_tilde - c.beta_tilde * difference
    )
