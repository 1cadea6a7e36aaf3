"""Workers that are late: codes with which their work is not missed."""

from . import coding as coding
from ._coded_mean import CodedMeanState as CodedMeanState
from ._coded_mean import coded_mean as coded_mean
