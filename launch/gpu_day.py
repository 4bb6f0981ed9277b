"""The parts of launch/gpu_day.sh: python launch/gpu_day.py --out=DIR PART."""

import argparse
from collections.abc import Callable, Iterator
import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import lightlm_jax
from lightlm_jax import config as config_lib
from lightlm_jax.data import batch as batch_lib
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import devices
from lightlm_jax.systems import registry
from lightlm_jax.training import speed

SYSTEMS = ("lightlm", "item_decoder", "lite_llm4rec", "sasrec", "bsarec", "bpr_mf")
REQUESTS = 100
# What the table shows of a benchmark: seconds a step, or a rate, or a ratio.
MEASURES = ("step", "users_per_second", "examples_per_second", "ratio")
# Of a batch, so that few programs are compiled.
ONE_WIDTH = {"train.history_buckets": (), "train.eval_batch_size": 300}


class Day(NamedTuple):
  """What all parts share."""

  out: pathlib.Path
  quick: bool
  platform: str | None

  def command(self, name: str, *arguments: Any) -> list[str]:
    """Returns a command of the package, on the day's platform."""
    given = [f"--platform={self.platform}"] if self.platform else []
    return [sys.executable, "-m", f"lightlm_jax.{name}", *map(str, arguments), *given]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("part", nargs="?", choices=PARTS)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--platform")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--list", action="store_true", help="print the parts' names")
  parser.add_argument("--table", action="store_true", help="print all parts' results")
  flags = parser.parse_args()
  if flags.list:
    print(" ".join(PARTS))
  elif flags.table:
    text = table(flags.out)
    (flags.out / "README.md").write_text(text)
    print(text)
  else:
    devices.select(flags.platform)
    began = time.monotonic()
    found = PARTS[flags.part](Day(flags.out, flags.quick, flags.platform))
    about = {"seconds": round(time.monotonic() - began, 1), "commit": commit()}
    about |= {"devices": results_lib.devices(), "versions": results_lib.versions()}
    path = flags.out / f"{flags.part}.json"
    path.write_text(json.dumps(about | {"found": found}, indent=2) + "\n")


def smoke(day: Day) -> dict[str, float]:
  """Every system trains 20 steps; the loss falls, and every list is valid."""
  found = {}
  for system in SYSTEMS[:1] if day.quick else SYSTEMS:
    card = "demo" if system == "lightlm" else system
    fields = {"data.name": "demo", "train.steps": 20, "train.log_every": 1}
    config: Any = config_lib.load(card, "tiny", fields | {"baselines": ()})
    if hasattr(config.train, "history_buckets"):
      config = config_lib.replace(config, ONE_WIDTH)
    workdir = day.out / "runs" / system
    results = lightlm_jax.train(config, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    check(np.mean(losses[-5:]) < np.mean(losses[:5]), f"{system}: losses {losses}")
    assert results["metrics"] is not None
    value = results["metrics"]["seen_excluded"]["ndcg@10"]
    check(0 < value <= 1, f"{system}: NDCG@10 {value}")
    found[f"{system}, NDCG@10"] = value
  return found


def numerics(day: Day) -> dict[str, float]:
  """The same weights on the CPU, on the accelerator and in bfloat16."""
  workdir = day.out / "runs" / "lightlm"
  if not (workdir / "results.json").exists():
    smoke(day)
  run = lightlm_jax.load(workdir)
  requests = run.split.test
  assert requests is not None
  first = np.arange(min(REQUESTS, len(requests)))
  width = int(requests.length_N[first].max())
  number = len(first)
  batch = batch_lib.request_batch(requests, first, batch_size=number, width=width)
  nobody = Allowed(
    no_shared_mask(), np.zeros(number, np.int32), np.zeros((number, 0), np.int32)
  )

  def answers(device: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    fields = {"model.dtype": dtype}
    config: Any = config_lib.replace(run.config, fields)
    system: Any = registry.build("lightlm", config, run.split.train, run.book).system
    arrays = jax.device_get((run.params, run.built.tables, batch, nobody))
    params, tables, asked, allowed = jax.device_put(arrays, device)
    nll_B = jax.jit(system.nll)(params, tables, asked)
    recommend = jax.jit(system.recommend, static_argnames="k")
    best = recommend(params, tables, asked, allowed, k=10)
    return np.asarray(nll_B, np.float32), np.asarray(best.items_BK)

  here = jax.devices()[0]
  cpu_B, cpu_BK = answers(jax.devices("cpu")[0], "float32")
  own_B, own_BK = answers(here, "float32")
  half_B, half_BK = answers(here, "bfloat16")
  found = {
    "-log p, largest difference to the CPU": float(np.abs(own_B - cpu_B).max()),
    "-log p in bfloat16, the same": float(np.abs(half_B - cpu_B).max()),
    "share of equal places in the first ten": float((own_BK == cpu_BK).mean()),
    "in bfloat16, the same share": float((half_BK == cpu_BK).mean()),
  }
  check(np.abs(own_B - cpu_B).max() < 2e-2, f"float32 differs: {found}")
  return found


def resume(day: Day) -> dict[str, float]:
  """A run that is killed in the middle ends as one that is not."""
  steps = 40 if day.quick else 400
  fields = [f"--config.train.steps={steps}", f"--config.train.eval_every={steps // 4}"]
  losses = {}
  for run in ("whole", "killed"):
    workdir = day.out / "runs" / run
    command = day.command("train", "--config=demo:tiny", f"--workdir={workdir}")
    command += [*fields, "--config.baselines=()"]
    command += [f"--config.{name}={value}" for name, value in ONE_WIDTH.items()]
    if run == "killed" and not (workdir / "results.json").exists():
      process = subprocess.Popen(command)
      while process.poll() is None and not list(workdir.glob("checkpoints/[0-9]*")):
        time.sleep(0.05)
      process.send_signal(signal.SIGKILL)
      process.wait()
      check(not (workdir / "results.json").exists(), "it ended before it was killed")
    subprocess.run(command, check=True)
    losses[run] = json.loads((workdir / "results.json").read_text())["validation_loss"]
  difference = abs(losses["whole"] - losses["killed"])
  check(difference < 1e-3, f"validation losses {losses}")
  return {"validation loss, difference": difference}


def decode(day: Day) -> dict[str, float]:
  """The constrained search, beside T5's where transformers is installed."""
  return bench(day, "decode", *(["--quick", "--parts=a,b"] if day.quick else []))


def static(day: Day) -> dict[str, float]:
  """The shape that STATIC (arXiv 2602.22647) is measured at."""
  shape = ("--batch=16", "--beams=200", "--depths=8", "--sizes=1000000", "--parts=a")
  small = ("--batch=4", "--beams=20", "--depths=8", "--sizes=10000", "--parts=a")
  return bench(day, "decode", *(small if day.quick else shape), "--quick")


def train(day: Day) -> dict[str, float]:
  """Training steps by shape, the embedding gradient, and T5 where it is installed."""
  return bench(day, "train", *(["--quick", "--parts=d"] if day.quick else []))


def quality(day: Day) -> dict[str, float]:
  """The preset `best` of Toys, or where its log is not there, the demo."""
  config: Any = config_lib.load("demo", "tiny", ONE_WIDTH | {"baselines": ()})
  if not day.quick:
    config = config_lib.load("toys", "best", {"baselines": ()})
  began = time.monotonic()
  results: Any = lightlm_jax.train(config, day.out / "runs" / "quality")
  found = {f"NDCG@10, {rule}": m["ndcg@10"] for rule, m in results["metrics"].items()}
  found |= {"seconds of training": results["train_seconds"]}
  found |= {"seconds in all": time.monotonic() - began}
  if (peak := speed.memory_peak()) is not None:
    found["GiB at most"] = peak / 2**30
  return found


def trace(day: Day) -> dict[str, float]:
  """The ten longest kernels of some training steps, milliseconds in all."""
  workdir = day.out / "runs" / "trace"
  name = "demo:tiny" if day.quick else "toys:best"
  fields = {"profile": True, "train.steps": 60, "train.log_every": 20}
  card, preset = name.split(":")
  fields |= ONE_WIDTH | {"baselines": (), "train.eval_users": 100}
  lightlm_jax.train(config_lib.load(card, preset, fields), workdir)
  longest: dict[str, float] = {}
  for path in workdir.glob("profile/**/*.xplane.pb"):
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      on_device = plane.name.startswith("/device:")
      for line in plane.lines if on_device or jax.default_backend() == "cpu" else ():
        for event in line.events:
          if event.name.startswith("$"):
            continue  # a function of Python
          spent = longest.get(event.name, 0) + event.duration_ns / 1e6
          longest[event.name] = spent
  check(longest, "the trace is empty")
  return dict(sorted(longest.items(), key=lambda item: -item[1])[:10])


PARTS: dict[str, Callable[[Day], dict[str, float]]] = {
  part.__name__: part
  for part in (smoke, numerics, resume, decode, static, train, quality, trace)
}


def bench(day: Day, name: str, *arguments: str) -> dict[str, float]:
  """Runs a benchmark, whose report stays beside the part's; returns its measures."""
  path = day.out / f"bench-{name}-{len(list(day.out.glob('bench-*')))}.json"
  subprocess.run(day.command("bench", name, *arguments, f"--report={path}"), check=True)
  return dict(measures(json.loads(path.read_text())))


def measures(found: Any) -> Iterator[tuple[str, float]]:
  """Yields the measures of a report by what the row that has them says of itself."""
  rows = found.values() if isinstance(found, dict) else found
  if not isinstance(found, dict | list):
    return
  if isinstance(found, dict):
    about = [
      f"{key} {value}" for key, value in found.items() if isinstance(value, str | int)
    ]
    for name in MEASURES:
      if isinstance(found.get(name), float):
        yield f"{name}: {', '.join(about)}", found[name]
  for row in rows:
    yield from measures(row)


def check(holds: Any, told: str) -> None:
  """Ends the part if something does not hold."""
  if not holds:
    raise SystemExit(told)


def commit() -> str:
  done = subprocess.run(
    ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
  )
  return done.stdout.strip() or "unknown"


def table(out: pathlib.Path) -> str:
  """Returns a table of Markdown of all parts that have ended."""
  lines = ["# A day on a GPU", ""]
  about: dict[str, Any] = {}
  rows = ["| part | seconds | what | value |", "| --- | --- | --- | --- |"]
  for part in PARTS:
    if not (out / f"{part}.json").exists():
      rows.append(f"| {part} | – | did not end | |")
      continue
    about = json.loads((out / f"{part}.json").read_text())
    rows += [
      f"| {part} | {about['seconds']} | {what} | {value:.4g} |"
      for what, value in about["found"].items()
    ]
  if about:
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    lines += [
      f"{', '.join(about['devices'])}; {versions}; commit {about['commit']}.",
      "",
    ]
  return "\n".join([*lines, *rows, ""])


if __name__ == "__main__":
  main()
