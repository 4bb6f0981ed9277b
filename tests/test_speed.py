"""What a run says of its own speed."""

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.training import speed


def test_a_device_is_known_by_the_longest_name_that_fits(monkeypatch):
  peaks = {"chip": 1.0, "chip 2": 2.0, "chip 2 lite": 3.0}
  monkeypatch.setattr(speed, "PEAK_FLOPS", peaks)
  kinds = ("chip 1 SXM", "chip 2 lite 80GB", "chip 2 light", "another")
  assert [speed.peak_flops(kind) for kind in kinds] == [1.0, 3.0, 2.0, None]


def test_a_cpu_is_measured():
  """By a product that the processor may well need a tenth of the time for again."""
  peak = speed.peak_of_run()
  assert 1e9 < peak < 1e14


def test_laps_are_of_steps_and_pauses_are_left_out(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
  clock = speed.Clock()
  for steps, seconds in ((1, 5.0), (10, 2.0), (10, 3.0), (4, 4.0)):
    now[0] += seconds
    assert clock.lap(steps) == seconds
  every = [5.0] + [0.2] * 10 + [0.3] * 10 + [1.0] * 4
  wanted = (14.0, np.median(every), np.quantile(every, 0.9))
  np.testing.assert_allclose(clock.window(), wanted)
  now[0] += 60  # a validation
  clock.restart()
  now[0] += 1
  clock.lap(2)
  assert clock.window() == (1.0, 0.5, 0.5)


def test_programs_are_counted_when_they_are_made_and_only_inside():
  @jax.jit
  def twice(x):
    return 2 * x

  one, two = np.ones(1), np.ones(2)
  with speed.count_compilations() as found:
    twice(one)
    assert found.count == 1
    assert found.seconds > 0
    twice(one)
    assert found.count == 1
    twice(two)
    assert found.count == 2
  twice(jnp.ones(3))
  assert found.count == 2
