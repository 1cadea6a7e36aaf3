"""gradax: optimization methods from the literature as optax gradient transformations."""

from gradax import catalogue as catalogue
from gradax import federated as federated
from gradax import optimizers as optimizers
from gradax import schedules as schedules
from gradax._accumulate import make_batch_step as make_batch_step
from gradax._compilation_cache import use_compilation_cache as use_compilation_cache
from gradax._convolution import conv_general_dilated as conv_general_dilated
from gradax._extras import MissingExtraError as MissingExtraError
from gradax._sharding import shard as shard
from gradax.training import make_step as make_step

__version__ = "0.1.0"
