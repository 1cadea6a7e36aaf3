"""Rules that combine the stacked messages of participants, some of which may lie.

A rule takes ``rows``, a pytree whose leaves have a leading axis of participants, and ``f``,
the number of faulty ones it must bear, and returns one tree without that axis. Rules are pure
functions; non-finite rows count as faulty and do no harm as long as there are at most ``f``.
A pre-aggregator (``nnm``, ``bucketing``, ``clip_rows``, ``arc``) returns rows again.

>>> import jax.numpy as jnp
>>> from gradax.federated import rules
>>> rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [jnp.nan, 10.0]])
>>> rules.trimmed_mean(rows, f=1).tolist()
[1.5, 0.5]
>>> rules.krum(rows, f=1).tolist()
[1.0, 0.0]
>>> rules.nnm(rows, f=1)[:, 0].tolist()
[1.0, 1.0, 1.0, 1.0]

With ``active``, a boolean for each row, rows that are not there do not count: ``n`` is then
the number of those that are, and ``f`` the number of faulty ones among them. If ``2 f`` is
not below it the result is zero, since the faulty might outvote the others.

>>> active = jnp.array([False, True, True, True])
>>> rules.median(rows, f=1, active=active).tolist()
[2.0, 1.0]
"""

from ._coordinates import meamed as meamed
from ._coordinates import mean as mean
from ._coordinates import median as median
from ._coordinates import trimmed_mean as trimmed_mean
from ._distances import finite_rows as finite_rows
from ._distances import squared_distances as squared_distances
from ._medians import centered_clipping as centered_clipping
from ._medians import geometric_median as geometric_median
from ._medians import weiszfeld as weiszfeld
from ._nearness import krum as krum
from ._nearness import multi_krum as multi_krum
from ._nearness import nearest_neighbor_average as nearest_neighbor_average
from ._preaggregation import arc as arc
from ._preaggregation import bucketing as bucketing
from ._preaggregation import clip_rows as clip_rows
from ._preaggregation import nnm as nnm
from ._rows import mask_rows as mask_rows
from ._subsets import caf as caf
from ._subsets import mda as mda
from ._subsets import smea as smea
