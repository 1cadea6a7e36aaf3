"""Federated algorithms with a server."""

from ._dual import DualServerState as DualServerState
from ._dual import DualState as DualState
from ._dual import dual_correction as dual_correction
from ._dual import dual_server as dual_server
from ._fedavg import fedavg as fedavg
from ._fedopt import FedOptState as FedOptState
from ._fedopt import fedadagrad as fedadagrad
from ._fedopt import fedadam as fedadam
from ._fedopt import fedavgm as fedavgm
from ._fedopt import fedyogi as fedyogi
from ._fedopt import scale_by_fed_adagrad as scale_by_fed_adagrad
from ._fedopt import scale_by_fed_adam as scale_by_fed_adam
from ._fedopt import scale_by_fed_yogi as scale_by_fed_yogi
from ._fedprox import fedprox as fedprox
from ._fedspeed import fedspeed as fedspeed
