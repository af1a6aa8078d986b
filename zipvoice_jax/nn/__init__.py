"""Building blocks of Zipformer as Flax Linen modules and pure functions."""
