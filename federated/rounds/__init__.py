"""The round protocol: what an algorithm is, who takes part, and local training."""

from ._algorithm import Algorithm as Algorithm
from ._algorithm import SumAggregate as SumAggregate
from ._algorithm import peers as peers
from ._average import average as average
from ._client_curriculum import ClientCurriculumState as ClientCurriculumState
from ._client_curriculum import client_curriculum as client_curriculum
from ._client_optimizer import client_optimizer as client_optimizer
from ._client_optimizer import scale_by_round_rate as scale_by_round_rate
from ._cohort import Cohort as Cohort
from ._cohort import Draw as Draw
from ._cohort import poisson_cohort as poisson_cohort
from ._cohort import scheduled_cohort as scheduled_cohort
from ._cohort import uniform_cohort as uniform_cohort
from ._cohort import weighted_cohort as weighted_cohort
from ._guards import skip_empty as skip_empty
from ._guards import skip_nonfinite as skip_nonfinite
from ._local_steps import LocalResult as LocalResult
from ._local_steps import LocalStepsState as LocalStepsState
from ._local_steps import add_correction as add_correction
from ._local_steps import add_proximal as add_proximal
from ._local_steps import local_steps as local_steps
from ._participants import init_participants as init_participants
from ._transformation import RoundState as RoundState
from ._transformation import as_transformation as as_transformation
from ._wire import communication_bytes as communication_bytes
