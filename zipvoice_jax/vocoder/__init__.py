"""Vocoders with one protocol (`base`), and the choice among them (`find`)."""
