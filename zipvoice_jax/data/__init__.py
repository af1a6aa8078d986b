"""Speech corpora: preparing them as random-access records, and loading those for training."""
