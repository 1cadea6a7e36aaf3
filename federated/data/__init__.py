"""Client data: real data sets, ways to split them among clients, layouts on the device."""

from ._classes import partition_pathological as partition_pathological
from ._classes import partition_shards as partition_shards
from ._dataset import Dataset as Dataset
from ._dirichlet import partition_client_dirichlet as partition_client_dirichlet
from ._dirichlet import partition_dirichlet as partition_dirichlet
from ._files import load_folder as load_folder
from ._files import read_idx as read_idx
from ._layout import ClientData as ClientData
from ._layout import client_arrays as client_arrays
from ._layout import flat as flat
from ._layout import padded as padded
from ._layout import to_padded as to_padded
from ._loaders import load as load
from ._processes import from_processes as from_processes
from ._processes import process_clients as process_clients
from ._report import PartitionSummary as PartitionSummary
from ._report import describe as describe
from ._report import plot_partition as plot_partition
from ._sizes import partition_iid as partition_iid
from ._sizes import partition_sizes as partition_sizes
from ._speakers import SpokenText as SpokenText
from ._speakers import load_plays as load_plays
from ._speakers import partition_by_user as partition_by_user
