"""Populations: many individuals that search together, each the participant of a named axis."""

from ._cbo import cbo as cbo
from ._consensus_hopping import consensus_hopping as consensus_hopping
from ._consensus_point import consensus_point as consensus_point
from ._consensus_search import ConsensusState as ConsensusState
