"""Batch sizes: what the learning rate makes of them, and rules that let them grow."""

from ._absa import ABSAState as ABSAState
from ._absa import absa_controller as absa_controller
from ._absa import fgsm_perturb as fgsm_perturb
from ._adaptive_batch_size import BatchSizeState as BatchSizeState
from ._adaptive_batch_size import adaptive_batch_size as adaptive_batch_size
from ._scaling import batch_scaled_learning_rate as batch_scaled_learning_rate
from ._scaling import batch_scaled_schedule as batch_scaled_schedule
from ._scaling import rmt_max_learning_rate as rmt_max_learning_rate
from ._scaling import rmt_top_eigenvalue as rmt_top_eigenvalue
from ._statistics import GradientStats as GradientStats
from ._statistics import coordinate_test as coordinate_test
from ._statistics import gradient_noise_scale as gradient_noise_scale
from ._statistics import gradient_stats as gradient_stats
from ._statistics import inner_product_test as inner_product_test
from ._statistics import norm_test as norm_test
from ._statistics import orthogonality_test as orthogonality_test
from ._statistics import variance_from_worker_means as variance_from_worker_means
from ._temperature import constant_temperature_schedule as constant_temperature_schedule
from ._temperature import decay_by_batch_size as decay_by_batch_size
from ._temperature import sgd_temperature as sgd_temperature
