"""What sampling begins with: noise, times and the number of frames."""

import jax
import numpy as np

from zipvoice_jax.flow.sampling import item_noise, predicted_frames, time_steps


def test_noise_does_not_depend_on_padding() -> None:
    key = jax.random.key(5)
    short, long = item_noise(key, 8, 10), item_noise(key, 29, 10)
    assert np.array_equal(short, long[:8])
    assert abs(float(long.std()) - 1.0) < 0.15


def test_times_meet_one_half_as_torch_does() -> None:
    # With 6 steps and t_shift 0.5 the fifth time is just not above 0.5 in torch's float32.
    times = time_steps(6, 0.5)
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert times[4] <= 0.5 < times[5]
    assert (np.diff(time_steps(33, 0.3)) > 0).all()


def test_predicted_frames() -> None:
    assert predicted_frames(220, 33, 32, 1.0) == 214
    assert predicted_frames(220, 33, 32, 2.0) == 107
