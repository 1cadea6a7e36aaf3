"""Federated, decentralized and robust training over named axes."""

from . import axis as axis
