"""Training without a server: nodes mix their parameters with those of their neighbours."""

from . import topology as topology
from ._dadao import DadaoState as DadaoState
from ._dadao import dadao as dadao
from ._dadao import dadao_params as dadao_params
from ._dadao_events import DadaoEvents as DadaoEvents
from ._dadao_events import dadao_cohort as dadao_cohort
from ._dadao_events import dadao_events as dadao_events
from ._dadao_events import dadao_stream as dadao_stream
from ._dadao_events import dadao_ticks as dadao_ticks
from ._dfedsam import dfedsam as dfedsam
from ._gossip import GossipState as GossipState
from ._gossip import decentralized_sgd as decentralized_sgd
from ._gossip import gossip as gossip
from ._gradient_tracking import GradientTrackingState as GradientTrackingState
from ._gradient_tracking import gradient_tracking as gradient_tracking
from ._gradient_tracking import scale_by_gradient_tracking as scale_by_gradient_tracking
from ._monna import monna as monna
from ._nearest import NearestNeighborState as NearestNeighborState
from ._nearest import nearest_neighbor_average as nearest_neighbor_average
