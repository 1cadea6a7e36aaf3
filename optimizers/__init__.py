"""Optimizers: gradient transformations for one participant."""

from .adaptive import DiffGradState as DiffGradState
from .adaptive import ProjectRadialState as ProjectRadialState
from .adaptive import adabelief as adabelief
from .adaptive import adamp as adamp
from .adaptive import diffgrad as diffgrad
from .adaptive import project_radial as project_radial
from .adaptive import scale_by_diffgrad as scale_by_diffgrad
from .adaptive import sgdp as sgdp
from .estimators import sam_gradient as sam_gradient
