"""Waveforms: reading and writing, log-mel features, prompt preparation, Griffin-Lim."""
