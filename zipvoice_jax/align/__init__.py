"""Learns when the tokens of a prepared dataset are spoken, from the dataset alone."""
