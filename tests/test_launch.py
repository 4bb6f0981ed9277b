"""launch/: what can be tried without a cluster. local.sh is really run."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

pytestmark = pytest.mark.integration
ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))


def launch(name, *arguments, **options):
  return subprocess.run(
    [ROOT / "launch" / name, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    **{"check": True, "timeout": 60} | options,
  ).stdout


def test_shellcheck_finds_nothing():
  command = pathlib.Path(sys.executable).parent / "shellcheck"
  files = [ROOT / "launch" / name for name in SCRIPTS]
  job = launch("slurm.sh", "--dry-run", "--config.seed=1")
  for given in ({"args": files}, {"args": ["-"], "input": job}):
    arguments = given.pop("args")
    done = subprocess.run(
      [command, *arguments], capture_output=True, text=True, check=False, **given
    )
    assert done.returncode == 0, done.stdout


def test_the_jobset_starts_a_host_each_and_gives_time_to_save():
  text = launch("gke.sh", "--dry-run", "--config.seed=1", "--config.data.name=it's")
  jobset = yaml.safe_load(text)
  assert (jobset["apiVersion"], jobset["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
  (slice_,) = jobset["spec"]["replicatedJobs"]
  job = slice_["template"]["spec"]
  # GKE gives a pod its place among the others only so.
  assert job["parallelism"] == job["completions"] > 1
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  assert pod["terminationGracePeriodSeconds"] >= 30
  (container,) = pod["containers"]
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert container["resources"]["requests"]["google.com/tpu"] == chips
  rows, columns = map(
    int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
  )
  assert rows * columns == chips * job["completions"]
  assert container["command"] == ["python", "-m", "lightlm_jax.train"]
  assert container["args"][0] == "--distributed=auto"
  assert container["args"][-2:] == ["--config.seed=1", "--config.data.name=it's"]


def test_the_slurm_job_has_a_task_a_gpu_and_queues_itself_again():
  job = launch("slurm.sh", "--dry-run", "--config.data.name=it's")
  options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", job, re.M))
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  assert "requeue" in options
  sent, seconds = options["signal"].split("@")
  assert sent == "TERM"
  assert int(seconds) >= 30
  command = shlex.split(job[job.index("srun") : job.index("code=")])
  assert "--distributed=auto" in command
  assert command[-1] == "--config.data.name=it's"
  assert "((code == 143))" in job


@pytest.mark.parametrize("action", ["create", "install", "train", "log", "stop"])
def test_the_pod_is_told_on_every_host(action):
  command = shlex.split(launch("tpu-pod.sh", "--dry-run", action).replace("\n", " "))
  assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
  assert ("--worker=all" in command) == (action != "create")


@pytest.mark.parametrize("name", ["local.sh", "tpu-pod.sh"])
def test_what_is_missing_is_said(name):
  done = subprocess.run(
    [ROOT / "launch" / name, "--dry-run"], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr.startswith("usage: launch/")


def test_every_file_has_its_page():
  page = (ROOT / "launch" / "README.md").read_text()
  for name in SCRIPTS:
    assert f"## {name}\n" in page
    assert f"[{name}]({name})" in page


def test_two_local_processes_save_and_end_when_the_script_is_told_to(tmp_path):
  workdir = tmp_path / "run"
  command = [
    ROOT / "launch" / "local.sh",
    "2",
    "--config=configs/demo.py:tiny",
    f"--workdir={workdir}",
    "--config.train.steps=400",
    "--config.train.eval_every=400",
    "--config.train.log_every=1",
    "--config.train.history_buckets=()",
    "--config.split.kind=none",
    "--config.baselines=()",
  ]
  environment = os.environ | {"PYTHON": sys.executable}
  options = {"cwd": ROOT, "env": environment, "text": True}
  script = subprocess.Popen(
    command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
  )
  deadline = time.monotonic() + 240
  journal = workdir / "metrics.jsonl"
  while not journal.exists() or journal.read_text().count("\n") < 5:
    assert script.poll() is None, script.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  script.send_signal(signal.SIGTERM)
  said, _ = script.communicate(timeout=60)
  assert script.returncode == 128 + signal.SIGTERM, said
  assert said.count("stopped by SIGTERM; start again to resume") == 2
  saved = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert str(journal.read_text().count("\n")) in saved
  assert not (workdir / "results.json").exists()


@pytest.mark.slow
def test_a_day_on_a_gpu_ends_in_a_table(tmp_path):
  """All parts in their quick form, on the CPU; what has ended is not run again."""
  command = ["--quick", "--platform=cpu", f"--out={tmp_path}"]
  options = {"env": os.environ | {"PYTHON": sys.executable}, "timeout": 900}
  out = launch("gpu_day.sh", *command, **options)
  table = (tmp_path / "README.md").read_text()
  assert table in out
  assert "did not end" not in table
  again = launch("gpu_day.sh", *command, **options)
  assert "== " not in again
  (tmp_path / "resume.json").unlink()
  assert launch("gpu_day.sh", *command, "resume", **options).startswith("== resume\n")


def test_an_unknown_option_of_the_day_is_refused_in_a_line():
  done = subprocess.run(
    [ROOT / "launch" / "gpu_day.sh", "--quik"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr == "gpu_day.sh: no option --quik; see the head of the file\n"
