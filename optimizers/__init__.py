"""Optimizers: gradient transformations for one participant."""
