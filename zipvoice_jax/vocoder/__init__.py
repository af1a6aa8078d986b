"""Vocoders by one protocol (`base`), and the choice among them (`find`)."""
