"""Flow matching: the training losses and the ODE that samples."""
