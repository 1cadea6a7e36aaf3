"""What dishonest participants send: test tools for robust rules.

An attack sees the honest messages, a pytree ``honest`` whose leaves have a leading axis of
``h`` participants, and returns one tree without that axis: what all attackers send. Most are
pure functions, whose parameters are fixed with ``functools.partial``; those that learn
something along the way are a :class:`StatefulAttack`. Put either before an aggregation with
:func:`gradax.federated.inject_attack`.

>>> import jax.numpy as jnp
>>> from gradax.federated import attacks
>>> honest = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
>>> attacks.inner_product(honest, tau=3.0).tolist()
[-3.0, -1.0]
"""

from ._flip_labels import flip_labels as flip_labels
from ._flip_labels import label_flip_targets as label_flip_targets
from ._learned_mimic import LearnedMimicState as LearnedMimicState
from ._learned_mimic import learned_mimic as learned_mimic
from ._lies import a_little_is_enough as a_little_is_enough
from ._lies import gaussian as gaussian
from ._lies import inner_product as inner_product
from ._lies import mimic as mimic
from ._lies import sign_flip as sign_flip
from ._search import OptimizedState as OptimizedState
from ._search import optimized as optimized
from ._search import search_factor as search_factor
from ._stateful import StatefulAttack as StatefulAttack
