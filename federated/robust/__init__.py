"""Robustness: rules that bear dishonest participants, and the attacks to test them with."""

from . import attacks as attacks
from . import rules as rules
from ._inject import InjectAttackState as InjectAttackState
from ._inject import inject_attack as inject_attack
