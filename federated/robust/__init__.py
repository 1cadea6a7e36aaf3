"""Robustness: rules that bear dishonest participants, and the attacks to test them with."""

from . import attacks as attacks
from . import rules as rules
from ._centered_clipping import CenteredClippingState as CenteredClippingState
from ._centered_clipping import centered_clipping as centered_clipping
from ._inject import InjectAttackState as InjectAttackState
from ._inject import inject_attack as inject_attack
from ._robust_aggregate import RobustAggregateState as RobustAggregateState
from ._robust_aggregate import robust_aggregate as robust_aggregate
from ._short_forms import coordinate_median as coordinate_median
from ._short_forms import geometric_median as geometric_median
from ._short_forms import krum as krum
from ._short_forms import multi_krum as multi_krum
from ._short_forms import trimmed_mean as trimmed_mean
from ._sign_majority_vote import sign_majority_vote as sign_majority_vote
