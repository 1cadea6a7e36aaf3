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
from ._multiplexed import MSGC as MSGC
from ._repeated import GC as GC
from ._repeated import SRSGC as SRSGC
from ._runtime import Runtime as Runtime
from ._runtime import simulate_rounds as simulate_rounds
from ._scheme import Scheme as Scheme
from ._scheme import Task as Task
from ._straggler_patterns import conforms as conforms
from ._straggler_patterns import conforms_arbitrary as conforms_arbitrary
from ._stragglers import straggler_model as straggler_model
from ._stragglers import worker_times as worker_times
