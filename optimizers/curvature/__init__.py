"""Curvature: what Hessian-vector products tell about the loss."""

from ._hessian_top_eigenvalue import hessian_top_eigenvalue as hessian_top_eigenvalue
