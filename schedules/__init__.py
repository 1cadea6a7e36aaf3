"""Schedules: learning rates, batch sizes and data sampling that listen to training."""
