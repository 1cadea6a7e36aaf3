"""Learning rates as functions of the count: optimal decay, refinement, composition."""

from ._compose import current_learning_rate as current_learning_rate
from ._compose import epochs as epochs
from ._compose import multiply_schedules as multiply_schedules
from ._compose import scale_schedule as scale_schedule
from ._compose import warmup_stable_decay_schedule as warmup_stable_decay_schedule
from ._compose import with_warmup as with_warmup
from ._last_iterate import last_iterate_fixed_schedule as last_iterate_fixed_schedule
from ._last_iterate import last_iterate_heavy_tailed_schedule as last_iterate_heavy_tailed_schedule
from ._last_iterate import last_iterate_inv_sqrt_schedule as last_iterate_inv_sqrt_schedule
from ._last_iterate import last_iterate_linear_schedule as last_iterate_linear_schedule
from ._last_iterate import last_iterate_schedule as last_iterate_schedule
from ._last_iterate import (
    last_iterate_strongly_convex_schedule as last_iterate_strongly_convex_schedule,
)
from ._last_iterate import linear_decay_schedule as linear_decay_schedule
from ._refined import GradientNormsState as GradientNormsState
from ._refined import load_schedule_table as load_schedule_table
from ._refined import record_gradient_norms as record_gradient_norms
from ._refined import refine_schedule as refine_schedule
from ._refined import refined_schedule as refined_schedule
from ._refined import save_schedule_table as save_schedule_table
from ._refined import smooth_gradient_norms as smooth_gradient_norms
