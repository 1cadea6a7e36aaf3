"""Adaptive steps: the size of each coordinate's step follows the gradients seen so far."""

from optax import adabelief as adabelief
from optax import add_noise as add_noise
from optax import noisy_sgd as noisy_sgd

from gradax import catalogue as _catalogue

from ._a2grad import A2GradState as A2GradState
from ._a2grad import a2grad as a2grad
from ._a2grad import a2grad_averaged_params as a2grad_averaged_params
from ._adagrad_norm import AdaGradNormState as AdaGradNormState
from ._adagrad_norm import adagrad_norm as adagrad_norm
from ._adagrad_norm import scale_by_adagrad_norm as scale_by_adagrad_norm
from ._adamp import adamp as adamp
from ._agvm import AGVMState as AGVMState
from ._agvm import scale_by_agvm as scale_by_agvm
from ._diffgrad import DiffGradState as DiffGradState
from ._diffgrad import diffgrad as diffgrad
from ._diffgrad import scale_by_diffgrad as scale_by_diffgrad
from ._l4 import L4State as L4State
from ._l4 import l4 as l4
from ._l4 import l4_adam as l4_adam
from ._l4 import l4_momentum as l4_momentum
from ._project_radial import ProjectRadialState as ProjectRadialState
from ._project_radial import project_radial as project_radial
from ._sgdp import sgdp as sgdp

# The paper's method needs both constants: eps is added to the stored moment as well.
_catalogue.reexport(
    adabelief,
    "optax.adabelief",
    __name__,
    "alias",
    _catalogue.Paper(
        title=("AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients"),
        authors="Zhuang et al.",
        year=2020,
        arxiv="2010.07468",
    ),
    example={"learning_rate": 1e-2, "eps": 1e-8, "eps_root": 1e-8},
)

_NOISE = _catalogue.Paper(
    title="Adding Gradient Noise Improves Learning for Very Deep Networks",
    authors="Neelakantan et al.",
    year=2015,
    arxiv="1511.06807",
)
# The paper's exponent; optax wants it and a key to be given.
_ANNEALED = {"eta": 1e-4, "gamma": 0.55, "key": 0}

_catalogue.reexport(add_noise, "optax.add_noise", __name__, "direction", _NOISE, example=_ANNEALED)
_catalogue.reexport(
    noisy_sgd,
    "optax.noisy_sgd",
    __name__,
    "alias",
    _NOISE,
    example={"learning_rate": 1e-3} | _ANNEALED,
)
