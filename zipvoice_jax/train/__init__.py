"""Training: configs, schedules, optimisers, steps and the loop that runs them."""
