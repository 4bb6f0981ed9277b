"""RunContext and Run: configuration, data, devices, folder and system of a run."""

import dataclasses
from typing import Any

from etils import epath
import jax

from lightlm_jax.config import RunConfig
from lightlm_jax.data.interactions import Dataset
from lightlm_jax.data.splits import Split
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.systems.base import Built
from lightlm_jax.training.loop import Progress


@dataclasses.dataclass(frozen=True)
class RunContext:
  """A run before its system is built.

  Attributes:
    config: of the run, perhaps decoded in another way.
    dataset: the log, with the items' texts and attributes.
    split: of the log, as `config.split` says.
    mesh: the devices of today.
    workdir: the run's folder.
  """

  config: RunConfig
  dataset: Dataset
  split: Split
  mesh: jax.sharding.Mesh
  workdir: epath.Path


@dataclasses.dataclass(frozen=True)
class Run(RunContext):
  """A run whose system is trained or fitted.

  Attributes:
    book: the ids; None for systems that write none.
    built: the system, its tables on the mesh.
    params: on the mesh; of the best validation.
    progress: of the training; None for systems that are fitted.
    step: that the parameters are of; likewise.
  """

  book: CodeBook | None
  built: Built
  params: Any
  progress: Progress | None
  step: int | None


def with_system(context: RunContext, **found: Any) -> Run:
  """The run of a context; `found` are the attributes that only a Run has."""
  return Run(**vars(context), **found)
