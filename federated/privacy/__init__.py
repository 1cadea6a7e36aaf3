"""Private training: bounded contributions, calibrated noise, accounting and an audit."""

from ._account import PrivacyAccount as PrivacyAccount
from ._accounting import calibrate_noise as calibrate_noise
from ._accounting import dp_epsilon as dp_epsilon
from ._algorithm import PrivateAlgorithm as PrivateAlgorithm
from ._audit import AuditResult as AuditResult
from ._audit import audit_epsilon as audit_epsilon
from ._audit import canary_release as canary_release
from ._clip import clip_contribution as clip_contribution
from ._dice import DiceState as DiceState
from ._dice import dice_aggregate as dice_aggregate
from ._dice import dice_noise_std as dice_noise_std
from ._dice import dice_sgd as dice_sgd
from ._diff2 import LocalPathState as LocalPathState
from ._diff2 import PrivateDifferenceState as PrivateDifferenceState
from ._diff2 import bvr_l_sgd as bvr_l_sgd
from ._diff2 import diff2 as diff2
from ._diff2 import private_gradient_difference as private_gradient_difference
from ._dp_fedavg import dp_fedavg as dp_fedavg
from ._dp_sgd import private_gradient as private_gradient
from ._noise import GaussianNoiseState as GaussianNoiseState
from ._noise import add_gaussian_noise as add_gaussian_noise
