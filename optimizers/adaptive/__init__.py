"""Adaptive steps: the size of each coordinate's step follows the gradients seen so far."""

from optax import adabelief as adabelief

from gradax import catalogue as _catalogue

from ._adamp import adamp as adamp
from ._diffgrad import DiffGradState as DiffGradState
from ._diffgrad import diffgrad as diffgrad
from ._diffgrad import scale_by_diffgrad as scale_by_diffgrad
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
