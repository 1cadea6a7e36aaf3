"""Schedules that listen: rates and other numbers set by what training reports."""

from ._bandit_hyperparam import BanditHyperparamState as BanditHyperparamState
from ._bandit_hyperparam import bandit_hyperparam as bandit_hyperparam
from ._cheb_cb import ChebCBState as ChebCBState
from ._cheb_cb import cheb_cb as cheb_cb
from ._fdr_sgd import FDRState as FDRState
from ._fdr_sgd import fdr_observables as fdr_observables
from ._fdr_sgd import fdr_sgd as fdr_sgd
from ._monitor_fdr import FDRMonitorState as FDRMonitorState
from ._monitor_fdr import monitor_fdr as monitor_fdr
from ._stability import StabilityCapState as StabilityCapState
from ._stability import cap_by_stability as cap_by_stability
from ._stability import stable_learning_rate as stable_learning_rate
from ._tsallis_inf import TsallisINFState as TsallisINFState
from ._tsallis_inf import tsallis_inf as tsallis_inf
