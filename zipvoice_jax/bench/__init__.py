"""Measurements behind `zipvoice-jax bench`."""
