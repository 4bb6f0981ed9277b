"""Stands in for `train`: leaves what it leaves, by the flags alone and in no time.

A line of `ran.txt` in the study says that it ran, and on what. It waits until STUB_WAIT
exists; a trial whose name is in STUB_SLOW takes a minute, one in STUB_FAIL fails, one
in STUB_DIE is killed.
"""

import json
import os
import pathlib
import signal
import sys
import time

flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
name = folder.name
cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
with open(folder.parent.parent / "ran.txt", "a") as file:
  file.write(f"{name} {os.getpid()} {cores} {gpu}\n")

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if name in os.environ.get("STUB_SLOW", "").split():
  time.sleep(60)
while not os.path.exists(os.environ.get("STUB_WAIT", "/")):
  time.sleep(0.02)
if name in os.environ.get("STUB_FAIL", "").split():
  print("a first line\nlightlm_jax: error: the disk is full", flush=True)
  sys.exit(2)
if name in os.environ.get("STUB_DIE", "").split():
  os.kill(os.getpid(), signal.SIGKILL)

depth = int(flags.get("config.model.num_layers", 1))
width = int(flags.get("config.model.d_model", 32))
rate = float(flags.get("config.train.learning_rate", 1e-3))
score = depth / 100 + width / 10_000 + rate
metrics = {"ndcg@10": score, "hr@10": 2 * score}
rules = {"seen_excluded": metrics, "seen_allowed": metrics}
results = {
  "params": {"total": 1_000 * width, "non_embedding": 100 * depth * width},
  "train_seconds": 1.5,
  "examples_per_second": 200.0,
  "examples": 300,
  "flops_per_example": 6.0 * depth * width,
  "best_step": 20,
  "validation": rules,
  "metrics": rules,
}
(folder / "results.json").write_text(json.dumps(results))
(folder / "split.json").write_text(json.dumps({"train": {"interactions": 1_234}}))
