"""gradax: optimization methods from the literature as optax gradient transformations."""

from gradax import catalogue as catalogue
from gradax import federated as federated
from gradax import optimizers as optimizers
from gradax import schedules as schedules
from gradax._accumulate import make_batch_step as make_batch_step
from gradax._extras import MissingExtraError as MissingExtraError
from gradax.training import make_step as make_step

__version__ = "0.1.0"
