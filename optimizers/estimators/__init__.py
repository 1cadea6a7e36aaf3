"""Estimators: transformations that produce the gradient that the rest of a chain uses."""

from ._sam_gradient import sam_gradient as sam_gradient
