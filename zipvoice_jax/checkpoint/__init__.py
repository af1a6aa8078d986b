"""Weights on disk: the official formats, our own, and growing one model into another."""
