"""Shows a running study: as a live table in a terminal, otherwise as plain lines."""

from collections.abc import Mapping, Sequence
import contextlib
import logging
from typing import NamedTuple

import rich.console
import rich.live
import rich.table
import rich.text

from lightlm_jax.runtime import log
from lightlm_jax.studies import summary as table_lib
from lightlm_jax.studies.trials import Progress

logger = logging.getLogger(__name__)


class Line(NamedTuple):
  """A row of the live table, about a running trial."""

  name: str
  steps: int
  progress: Progress
  here: bool  # True if this process runs it


class View:
  def __init__(self, console: rich.console.Console | None = None):
    console = console or log.console()
    # No refreshing thread: this process starts trials by fork.
    live = rich.live.Live(console=console, auto_refresh=False)
    self.live = live if console.is_terminal else None  # None = lines are logged
    self._ended: list[str] = []

  def shown(self):
    return self.live or contextlib.nullcontext()

  def started(self, name: str, number: int, of: int) -> None:
    if not self.live:
      logger.info(f"{name}: started, {number} of {of} have ended")

  def ended(self, name: str, row: Mapping, seconds: float, number: int, of: int):
    if row["state"] == "finished":
      score = row[table_lib.OBJECTIVE]
      what = f"finished in {seconds:.0f} s, validation NDCG@10 {score:.4f}"
    else:
      what = f"failed after {seconds:.0f} s: {row['reason']}"
    self._ended.append(f"{name}: {what}")
    if not self.live:
      logger.info(f"{name}: {what}; {number} of {of} have ended")

  def refresh(
    self, running: Sequence[Line], counts: Mapping[str, int], best: Mapping | None
  ) -> None:
    """Redraws the live table, if there is one; `counts`, `best` as in `summary`."""
    if not self.live:
      return
    table = rich.table.Table()
    for head in ("trial", "step", "loss", "NDCG@10", "left"):
      table.add_column(head, justify="left" if head == "trial" else "right")
    for name, steps, found, here in running:
      table.add_row(
        name if here else f"{name} (elsewhere)",
        f"{found.step}/{steps}",
        "–" if found.loss is None else f"{found.loss:.3f}",
        "–" if found.score is None else f"{found.score:.4f}",
        _duration(found.seconds_left),
      )
    lines = [*self._ended[-8:], summary(counts, best)]
    below = rich.text.Text("\n".join(lines))
    self.live.update(rich.console.Group(table, below), refresh=True)


def summary(counts: Mapping[str, int], best: Mapping | None) -> str:
  """Returns "5 finished, 3 running; best so far …"; `best` is the best trial's row."""
  line = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
  if best is None:
    return line
  score = best[table_lib.OBJECTIVE]
  return f"{line}; best so far {best['trial']}: validation NDCG@10 {score:.4f}"


def _duration(seconds: float | None) -> str:
  if seconds is None:
    return "–"
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
