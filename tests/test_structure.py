"""The package's shape: which folder imports which, and how long a file may be.

Everything here is read from the sources, by `ast`; one test alone imports the package.
"""

import ast
import collections
import functools
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# Where the modules of the package lie: two of its folders stand beside it.
SOURCES = {
  "lightlm_jax": ROOT / "lightlm_jax",
  "lightlm_jax.benchmarks": ROOT / "benchmarks",
  "lightlm_jax.configs": ROOT / "configs",
}
# A later folder imports an earlier one, never the reverse.
ORDER = (
  "runtime",
  "config",
  "storage",
  "data",
  "preprocess",
  "ids",
  "models",
  "decoding",
  "systems",
  "inference",
  "evaluation",
  "training",
  "runs",
  "reporting",
  "studies",
  "benchmarks",
  "command_line",
  "commands",
)
COMMANDS = ("train", "evaluate", "recommend", "prepare", "index", "audit")
COMMANDS += ("report", "sweep", "bench", "export", "doctor")
FUNCTION_LINES, FILE_LINES, COMMAND_LINES, PACKAGE_LINES = 80, 400, 60, 30_100
# A command and what it calls share a name on purpose.
TWICE = dict.fromkeys(COMMANDS, 2)


@functools.cache
def modules() -> dict[str, pathlib.Path]:
  """Every module of the package by its full name."""
  found = {}
  for package, folder in SOURCES.items():
    for path in sorted(folder.rglob("*.py")):
      parts = path.relative_to(folder).with_suffix("").parts
      name = ".".join([package, *parts]).removesuffix(".__init__")
      found[name] = path
  return found


@functools.cache
def tree(name: str) -> ast.Module:
  return ast.parse(modules()[name].read_text())


def imported(node: ast.AST) -> list[str]:
  """What one import statement asks for: modules of the package by their full names."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if not isinstance(node, ast.ImportFrom):
    return []
  assert not node.level, "imports are absolute"
  whole = [f"{node.module}.{alias.name}" for alias in node.names]
  ours = node.module.partition(".")[0] == "lightlm_jax"
  return [node.module if ours and name not in modules() else name for name in whole]


def imports_anywhere(name: str) -> set[str]:
  """All imports of a module, those inside functions too."""
  return {one for node in ast.walk(tree(name)) for one in imported(node)}


def imports_at_start(name: str) -> set[str]:
  """The imports that run when a module is imported."""
  found = set()
  waiting = list(tree(name).body)
  while waiting:
    node = waiting.pop()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      continue
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
      waiting += node.orelse
      continue
    found.update(imported(node))
    waiting += ast.iter_child_nodes(node)
  return found


def room(name: str) -> str | None:
  """The folder of a module in ORDER; None for what is outside the order."""
  first, _, rest = name.partition(".")
  if first != "lightlm_jax" or not rest:
    return None
  top = rest.partition(".")[0]
  if top == "_version":
    return None
  return "commands" if top in (*COMMANDS, "__main__") else top


def functions(name: str):
  """Every function of a module, with the number of its lines."""
  for node in ast.walk(tree(name)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      first = min(one.lineno for one in (node, *node.decorator_list))
      yield node.name, node.end_lineno - first + 1


def lines(name: str) -> int:
  return len(modules()[name].read_text().splitlines())


def test_every_folder_has_its_place_in_the_order():
  folders = {room(name) for name in modules()} - {None, "configs"}
  assert folders == set(ORDER)


def test_a_later_folder_imports_an_earlier_one_never_the_reverse():
  backward = []
  for name in modules():
    here = room(name)
    if here not in ORDER:
      continue  # the public interface, which imports lazily, and the configs
    for other in imports_anywhere(name):
      there = room(other)
      if there in ORDER and ORDER.index(there) > ORDER.index(here):
        backward.append(f"{name} imports {other}")
  assert not backward, "\n".join(backward)


def test_no_command_is_imported():
  # A command defines flags: whoever imports it gets them too.
  callers = {
    f"{name} imports {other}"
    for name in modules()
    for other in imports_anywhere(name)
    if room(other) == "commands" and room(name) != "commands"
  }
  assert not callers


def test_models_and_decoding_know_no_files_and_no_config():
  # Arrays in, arrays out.
  barred = {"os", "pathlib", "io", "json", "shutil", "tempfile", "etils", "absl"}
  barred |= {"ml_collections", "polars", "pyarrow"}
  for name in modules():
    if room(name) in ("models", "decoding"):
      for other in imports_anywhere(name):
        assert other.partition(".")[0] not in barred, f"{name} imports {other}"
        assert room(other) not in ("config", "storage"), f"{name} imports {other}"


def test_no_circle_of_imports():
  needs = {name: imports_at_start(name) & set(modules()) for name in modules()}
  finished, circles = set(), []

  def visit(name, path):
    if name in path:
      circles.append(" → ".join([*path[path.index(name) :], name]))
    elif name not in finished:
      for other in sorted(needs[name] - {name}):
        visit(other, [*path, name])
      finished.add(name)

  for name in needs:
    visit(name, [])
  assert not circles, "\n".join(circles)


def test_flags_are_imported_by_commands_alone():
  flags = ("absl.flags", "ml_collections.config_flags")
  askers = {n for n in modules() for o in imports_anywhere(n) if o.startswith(flags)}
  assert [n for n in askers if room(n) not in ("commands", "command_line")] == []


def test_the_public_interface_defines_no_flag():
  # absl.logging and Orbax define flags of their own.
  script = (
    "from absl import flags\n"
    "from lightlm_jax import Recommender, train, evaluate, load\n"
    "assert callable(train) and callable(evaluate) and callable(load)\n"
    "for name in ('workdir', 'config', 'users', 'report', 'split', 'platform'):\n"
    "  flags.DEFINE_string(name, None, 'of the host')\n"
    "modules = flags.FLAGS.flags_by_module_dict()\n"
    "print([name for name in modules if 'lightlm' in name or 'ml_coll' in name])"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[]"


def test_no_function_is_long():
  long = [
    f"{name}.{function}: {count}"
    for name in modules()
    for function, count in functions(name)
    if count > FUNCTION_LINES
  ]
  assert not long, "\n".join(long)


def test_no_file_is_long():
  long = [f"{name}: {lines(name)}" for name in modules() if lines(name) > FILE_LINES]
  assert not long, "\n".join(long)


def test_commands_are_thin():
  thick = {n: lines(f"lightlm_jax.{n}") for n in COMMANDS}
  assert not {n: count for n, count in thick.items() if count > COMMAND_LINES}


def test_the_package_does_not_grow():
  beside = ("benchmarks", "configs")
  counted = [name for name in modules() if room(name) not in beside]
  assert sum(map(lines, counted)) <= PACKAGE_LINES


def test_no_two_files_share_a_name():
  # A card in configs/ bears the name of its system or its log.
  named = [path for name, path in modules().items() if room(name) != "configs"]
  paths = [path for path in named if path.stem != "__init__"]
  names = collections.Counter(path.stem for path in paths)
  assert not {n: count for n, count in names.items() if count > TWICE.get(n, 1)}
