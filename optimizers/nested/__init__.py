"""Games: several players, or levels, that minimize losses of their own."""

from optax import optimistic_gradient_descent as optimistic_gradient_descent

from gradax import catalogue as _catalogue

from ._extragradient import ExtragradientState as ExtragradientState
from ._extragradient import extragradient as extragradient
from ._minmax import MinMax as MinMax
from ._minmax import minmax as minmax
from ._minmax import minmax_operator as minmax_operator

_catalogue.reexport(
    optimistic_gradient_descent,
    "optax.optimistic_gradient_descent",
    __name__,
    "alias",
    _catalogue.Paper(
        title="Training GANs with Optimism",
        authors="Daskalakis et al.",
        year=2017,
        arxiv="1711.00141",
    ),
    example={"learning_rate": 5e-4},
)
