"""Gradient codes, sequential codes, and models of the workers that are late.

Functions and classes of the host, in NumPy; the exception is :func:`encode`, which also runs
inside of jit. The transformation that decodes within a training step is
:func:`gradax.federated.coded_mean`.
"""

from ._codes import cyclic_code as cyclic_code
from ._codes import decode_vector as decode_vector
from ._codes import encode as encode
from ._codes import load as load
from ._codes import repetition_code as repetition_code
from ._codes import support as support
from ._runtime import Runtime as Runtime
from ._runtime import simulate_rounds as simulate_rounds
from ._sequential import GC as GC
from ._sequential import MSGC as MSGC
from ._sequential import SRSGC as SRSGC
from ._sequential import Scheme as Scheme
from ._sequential import Task as Task
from ._sequential import conforms as conforms
from ._sequential import conforms_arbitrary as conforms_arbitrary
from ._stragglers import straggler_model as straggler_model
from ._stragglers import worker_times as worker_times
