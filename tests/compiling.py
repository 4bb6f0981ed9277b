"""Makes programs quick to compile, which is most of what tests do."""

import os

import jax

# Without LLVM's optimisation, and with XLA's older emitters of fused loops, compiling
# takes a fifth of the time, here and in the processes that tests start. At night
# programs are compiled as a person's are.
_FLAGS = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
  "--xla_cpu_parallel_codegen_split_count=1"
)
if jax.__version_info__ < (0, 11):  # later ones have no choice of emitters
  _FLAGS += " --xla_cpu_use_fusion_emitters=false"


def quick() -> None:
  """Sets the environment for this process and those that it starts."""
  given = os.environ.get("XLA_FLAGS", "")  # a worker of pytest-xdist has them already
  if not os.environ.get("LIGHTLM_TESTS_OPTIMISED") and _FLAGS not in given:
    os.environ["XLA_FLAGS"] = f"{given} {_FLAGS}"
