"""Monitors: identity transformations that record what training does, and measurements."""

from ._directional_sharpness import directional_sharpness as directional_sharpness
from ._make_monitor import make_monitor as make_monitor
from ._margins import MarginsState as MarginsState
from ._margins import kkt_alignment as kkt_alignment
from ._margins import monitor_margins as monitor_margins
from ._margins import normalized_margin as normalized_margin
from ._monitor_directional_sharpness import DirectionalSharpnessState as DirectionalSharpnessState
from ._monitor_directional_sharpness import (
    monitor_directional_sharpness as monitor_directional_sharpness,
)
from ._monitor_effective_learning_rate import (
    EffectiveLearningRateState as EffectiveLearningRateState,
)
from ._monitor_effective_learning_rate import (
    monitor_effective_learning_rate as monitor_effective_learning_rate,
)
from ._monitor_gradient_direction import GradientDirectionState as GradientDirectionState
from ._monitor_gradient_direction import GradientMoments as GradientMoments
from ._monitor_gradient_direction import monitor_gradient_direction as monitor_gradient_direction
from ._monitor_update_ratio import UpdateRatioState as UpdateRatioState
from ._monitor_update_ratio import monitor_update_ratio as monitor_update_ratio
