"""Steepest descent in norms other than the Euclidean one: signs and orthogonal matrices."""

from optax import normalize_by_update_norm as normalize_by_update_norm
from optax import scale_by_sign as scale_by_sign
from optax import sign_sgd as sign_sgd
from optax import signum as signum

from gradax import catalogue as _catalogue

from ._muon import OrthogonalizedMomentumState as OrthogonalizedMomentumState
from ._muon import muon as muon
from ._muon import scale_by_muon as scale_by_muon
from ._muon import scale_by_orthogonalized_momentum as scale_by_orthogonalized_momentum
from ._orthogonalize import orthogonalize as orthogonalize
from ._orthogonalize import polar_express_coefficients as polar_express_coefficients

_SIGN_SGD = _catalogue.Paper(
    title="signSGD: Compressed Optimisation for Non-Convex Problems",
    authors="Bernstein et al.",
    year=2018,
    arxiv="1802.04434",
)
_NORMALIZED = _catalogue.Paper(
    title="Beyond Convexity: Stochastic Quasi-Convex Optimization",
    authors="Hazan et al.",
    year=2015,
    arxiv="1507.02030",
)

_STUCK = {"converges_rosenbrock": "steps of constant length end on the walls of the valley"}

_catalogue.reexport(
    normalize_by_update_norm,
    "optax.normalize_by_update_norm",
    __name__,
    "direction",
    _NORMALIZED,
    exceptions={
        "mixed_float32_float64": "optax divides all leaves by one norm, in the widest dtype"
    },
)
_catalogue.reexport(
    scale_by_sign, "optax.scale_by_sign", __name__, "direction", _SIGN_SGD, exceptions=_STUCK
)
_catalogue.reexport(
    sign_sgd,
    "optax.sign_sgd",
    __name__,
    "alias",
    _SIGN_SGD,
    example={"learning_rate": 1e-2},
    exceptions=_STUCK,
)
_catalogue.reexport(
    signum, "optax.signum", __name__, "alias", _SIGN_SGD, example={"learning_rate": 4e-4}
)
