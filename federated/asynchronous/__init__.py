"""Workers that are late: servers that do not wait, and codes with which they are not missed."""

from . import coding as coding
from ._async_cohort import AsyncCohortState as AsyncCohortState
from ._async_cohort import async_cohort as async_cohort
from ._async_server import async_server as async_server
from ._async_server import fedavg_async as fedavg_async
from ._async_server import fedbuff as fedbuff
from ._async_server import fedfix as fedfix
from ._clocks import Clock as Clock
from ._clocks import client_clock as client_clock
from ._coded_mean import CodedMeanState as CodedMeanState
from ._coded_mean import coded_mean as coded_mean
from ._schedule import AsyncSchedule as AsyncSchedule
from ._schedule import async_schedule as async_schedule
from ._schedule import unbiased_weights as unbiased_weights
from ._timeout import TimeoutState as TimeoutState
from ._timeout import with_timeout as with_timeout
from ._versions import KeepVersionsState as KeepVersionsState
from ._versions import from_version as from_version
from ._versions import keep_versions as keep_versions
