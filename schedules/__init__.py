"""Schedules: learning rates, batch sizes and data sampling that listen to training."""

from ._protocols import Bandit as Bandit
from ._protocols import Controller as Controller
from ._protocols import Sampler as Sampler
from .learning_rate import GradientNormsState as GradientNormsState
from .learning_rate import current_learning_rate as current_learning_rate
from .learning_rate import epochs as epochs
from .learning_rate import last_iterate_fixed_schedule as last_iterate_fixed_schedule
from .learning_rate import last_iterate_heavy_tailed_schedule as last_iterate_heavy_tailed_schedule
from .learning_rate import last_iterate_inv_sqrt_schedule as last_iterate_inv_sqrt_schedule
from .learning_rate import last_iterate_linear_schedule as last_iterate_linear_schedule
from .learning_rate import last_iterate_schedule as last_iterate_schedule
from .learning_rate import (
    last_iterate_strongly_convex_schedule as last_iterate_strongly_convex_schedule,
)
from .learning_rate import linear_decay_schedule as linear_decay_schedule
from .learning_rate import load_schedule_table as load_schedule_table
from .learning_rate import multiply_schedules as multiply_schedules
from .learning_rate import record_gradient_norms as record_gradient_norms
from .learning_rate import refine_schedule as refine_schedule
from .learning_rate import refined_schedule as refined_schedule
from .learning_rate import save_schedule_table as save_schedule_table
from .learning_rate import scale_schedule as scale_schedule
from .learning_rate import smooth_gradient_norms as smooth_gradient_norms
from .learning_rate import warmup_stable_decay_schedule as warmup_stable_decay_schedule
from .learning_rate import with_warmup as with_warmup
