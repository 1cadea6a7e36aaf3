"""Steepest descent in norms other than the Euclidean one: signs and orthogonal matrices."""

from optax import normalize_by_update_norm as normalize_by_update_norm
from optax import scale_by_sign as scale_by_sign
from optax import sign_sgd as sign_sgd
from optax import signum as signum

from gradax import catalogue as _catalogue

from . import norms as norms
from ._composite_mirror_descent import CompositeMirrorDescentState as CompositeMirrorDescentState
from ._composite_mirror_descent import composite_mirror_descent as composite_mirror_descent
from ._composite_mirror_descent import prox_l1 as prox_l1
from ._composite_mirror_descent import prox_l2 as prox_l2
from ._drop_muon import drop_muon as drop_muon
from ._eg_plus_minus import EGPlusMinusState as EGPlusMinusState
from ._eg_plus_minus import eg_plus_minus as eg_plus_minus
from ._exponentiated_gradient import exponentiated_gradient as exponentiated_gradient
from ._exponentiated_gradient import signed_exponentiate as signed_exponentiate
from ._hypentropy import hypentropy as hypentropy
from ._layer_dropout import LayerDropoutState as LayerDropoutState
from ._layer_dropout import cutoff_probs as cutoff_probs
from ._layer_dropout import layer_dropout as layer_dropout
from ._layer_dropout import sample_cutoff as sample_cutoff
from ._layer_dropout import value_and_grad_from_cutoff as value_and_grad_from_cutoff
from ._muon import OrthogonalizedMomentumState as OrthogonalizedMomentumState
from ._muon import muon as muon
from ._muon import scale_by_muon as scale_by_muon
from ._muon import scale_by_orthogonalized_momentum as scale_by_orthogonalized_momentum
from ._muon_dimension_numbers import muon_dimension_numbers as muon_dimension_numbers
from ._normalized_lr_gd import normalize_by_mean_sigmoid as normalize_by_mean_sigmoid
from ._normalized_lr_gd import normalize_by_value as normalize_by_value
from ._normalized_lr_gd import normalized_lr_gd as normalized_lr_gd
from ._optimistic_mirror_descent import OptimisticMirrorDescentState as OptimisticMirrorDescentState
from ._optimistic_mirror_descent import VariationRate as VariationRate
from ._optimistic_mirror_descent import optimistic_mirror_descent as optimistic_mirror_descent
from ._optimistic_mirror_descent import sea_convex as sea_convex
from ._optimistic_mirror_descent import sea_strongly_convex as sea_strongly_convex
from ._optimistic_newton import OptimisticNewtonState as OptimisticNewtonState
from ._optimistic_newton import optimistic_newton as optimistic_newton
from ._orthogonalize import orthogonalize as orthogonalize
from ._orthogonalize import polar_express_coefficients as polar_express_coefficients
from ._steepest_descent import muon_adam as muon_adam
from ._steepest_descent import muon_signum as muon_signum
from ._steepest_descent import scale_by_steepest_descent as scale_by_steepest_descent
from ._steepest_descent import steepest_descent as steepest_descent

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
