"""The audit of a run: what the command leaves in its folder, and what its report says.

An audit is a verdict on the ids that it built. Where those are not the run's, neither
the command nor the report may call the run audited.
"""

import functools
import json
import shutil

import commands
from etils import epath
import pytest
from report_pages import SCRIPT, change, make_run, written

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, parquet_logs
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes
from lightlm_jax.reporting import report
from lightlm_jax.runs import audit, train
from lightlm_jax.runs import restore as trained
from lightlm_jax.runtime.errors import UserError


@pytest.fixture
def run(demo_run, tmp_path):
  """A copy of a finished run, to write into."""
  return shutil.copytree(demo_run[0], tmp_path / "run")


command = functools.partial(commands.run, "lightlm_jax.audit")


def test_the_audit_of_a_run_is_of_its_ids_and_its_report_says_passed(run, tmp_path):
  done = command(f"--workdir={run}", f"--report={tmp_path / 'report.json'}")
  assert done.returncode == 0, done.stderr
  found = json.loads((run / "audit.json").read_text())
  results = json.loads((run / "results.json").read_text())
  assert found["passed"]
  assert found["ids"] == results["ids"]
  assert found["split_sha256"] == results["split_sha256"]
  assert json.loads((tmp_path / "report.json").read_text()) == found
  assert "✓ passed" in written(report.report(run)).said("audit")


def test_a_run_that_carries_its_log_is_audited_on_it(run):
  """As `Recommender.save` leaves one: where it was, nobody knows."""
  config = json.loads((run / "config.json").read_text())
  parquet_logs.write_snapshot(
    datasets.load(config_lib.from_tree(config)), epath.Path(run / trained.LOG)
  )
  config["data"] = {"name": "interactions", "min_len": config["data"]["min_len"]}
  (run / "config.json").write_text(json.dumps(config))
  found = audit.audit_run(run)
  results = json.loads((run / "results.json").read_text())
  assert found["split_sha256"] == results["split_sha256"]
  assert found["ids"] == results["ids"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "or --workdir=RUN for a run's own"),
    (("--workdir=RUN", "--config=demo:tiny"), "--config and --workdir are two"),
    (("--workdir=RUN", "--config.seed=1"), "without any --config"),
  ],
)
def test_one_configuration_is_audited(run, arguments, message):
  done = command(*(argument.replace("RUN", str(run)) for argument in arguments))
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert message in line
  assert not (run / "audit.json").exists()


@pytest.mark.parametrize("where", ["codes", "results.json"])
def test_a_run_of_other_ids_is_refused_and_nothing_is_written(run, where):
  if where == "codes":
    book = codes.load(run / "codes")
    items_IL = book.items_IL[::-1].copy()
    codes.save(
      codes.code_book(items_IL, book.users_UL, book.manifest), epath.Path(run / "codes")
    )
  else:
    change(run / "results.json", ids={"kind": "sci", "manifest_sha256": "0" * 64})
  with pytest.raises(UserError, match="are not those that its configuration builds"):
    audit.audit_run(run)
  assert not (run / "audit.json").exists()


def test_a_run_that_has_no_ids_yet_gets_no_verdict(run):
  (run / "codes" / "manifest.json").unlink()
  (run / "results.json").unlink()
  with pytest.raises(UserError, match="codes holds no whole ids; let `train` write"):
    audit.audit_run(run)
  assert not (run / "audit.json").exists()


def test_a_run_of_another_log_is_refused(run):
  change(run / "results.json", split_sha256="0" * 64)
  with pytest.raises(UserError, match="was begun on another log"):
    audit.audit_run(run)
  (run / "results.json").write_text("{")
  with pytest.raises(UserError, match=r"cannot read .*results\.json"):
    audit.audit_run(run)


def test_a_run_without_ids_has_nothing_to_audit(small_config, tmp_path):
  config = small_config(system="pop", split__kind="leave_one_out")
  train.train(config, tmp_path / "pop")
  with pytest.raises(UserError, match="a run of pop, which writes no ids"):
    audit.audit_run(tmp_path / "pop")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"split.kind": "none"}, "nothing is held out"),
    ({"split.withheld": 0.1}, "config.split.withheld is 0.1"),
  ],
)
def test_what_the_audit_does_not_know_is_one_line(fields, message):
  config = config_lib.load("demo", "tiny", fields)
  with pytest.raises(UserError, match=message):
    audit.audit(config)


def test_numbering_anew_takes_attributes_along(monkeypatch):
  """They say where an item without training belongs."""
  built, build = [], ids_build.book_of_run

  def spy(config, train, attributes, *rest):
    built.append({i: a.tolist() for i, a in zip(train.item_ids, attributes)})
    return build(config, train, attributes, *rest)

  monkeypatch.setattr(ids_build, "book_of_run", spy)
  config = config_lib.load("demo", "tiny", {"ids.cold": "attributes"})
  audit.audit(config)
  dataset = datasets.load(config)
  own = {i: a.tolist() for i, a in zip(dataset.log.item_ids, dataset.attributes)}
  assert len(built) > 2
  assert all(found == own for found in built)
  assert len(set(map(str, own.values()))) > 1


def verdict(run, **fields):
  """An audit.json that belongs to a run, but for `fields`."""
  results = json.loads((run / "results.json").read_text())
  audited = {"passed": True, "failures": [], "held_out_edges": 0}
  audited |= {"ids": results["ids"], "split_sha256": results["split_sha256"]}
  (run / "audit.json").write_text(json.dumps(audited | fields))
  return written(report.report(run))


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize(
  ("fields", "why"),
  [
    ({"ids": {"kind": "sci", "manifest_sha256": "0" * 64}}, "is of other ids (0000"),
    ({"split_sha256": "0" * 64}, "is of another split"),
    ({"ids": None}, "does not name its ids"),
  ],
)
def test_an_audit_of_other_ids_is_no_verdict(shop, fields, why, passed):
  lines = [] if passed else ["7 held-out interactions shaped the ids"]
  page = verdict(shop / "one", passed=passed, failures=lines, **fields)
  said = page.said("audit")
  assert f"not audited: the audit {why}" in said
  assert f"python -m lightlm_jax.audit --workdir={shop / 'one'}" in said
  assert "passed" not in said
  assert "failed" not in page.said("result")
  assert not [a for _, a in page.tags if "suspect" in a.get("class", "")]


@pytest.mark.parametrize(
  ("split", "why"),
  [
    ({"kind": "none"}, "nothing is held out"),
    ({"kind": "ratio", "withheld": 0.1}, "the audit does not support items withheld"),
  ],
)
def test_a_run_that_cannot_be_audited_is_not_told_to(shop, split, why):
  change(shop / "one/config.json", split=split)
  said = written(report.report(shop / "one")).said("audit")
  assert f"not audited: {why}" in said
  assert "python -m" not in said


@pytest.mark.parametrize("where", ["audit.json", "results.json"])
def test_a_failed_audit_marks_the_table(shop, where):
  lines = ["7 held-out interactions shaped the ids", SCRIPT]
  failed = {"passed": False, "failures": lines, "held_out_edges": 7}
  if where == "audit.json":
    page = verdict(shop / "one", **failed)
  else:
    change(shop / "one/results.json", audit=failed)
    page = written(report.report(shop / "one"))
  for section in ("result", "audit"):
    assert "7 held-out interactions shaped the ids" in page.said(section)
  assert "The audit of one failed" in page.said("result")
  marked = [attrs for tag, attrs in page.tags if "suspect" in attrs.get("class", "")]
  assert len(marked) == 2

  make_run(shop / "two", shop / "data", seed=1)
  report.report(shop / "two", [shop / "one"])
  said = written(shop / "two/report.html").said("result")
  assert "✗ one 0." in said
  assert "✗ two" not in said

  page = verdict(shop / "one")
  assert "✓ passed" in page.said("audit")
  assert not [a for _, a in page.tags if "suspect" in a.get("class", "")]


def test_a_run_of_an_older_version_is_audited_by_its_fields(shop):
  """`audit` does not read a config.json that lacks fields."""
  config = json.loads((shop / "one/config.json").read_text())
  config["ids"]["kind"], config["seed"], config["train"]["steps"] = "gci", 5, 77
  (shop / "one/config.json").write_text(json.dumps(config))
  said = written(report.report(shop / "one")).said("audit")
  assert (
    f"this audits them: python -m lightlm_jax.audit --workdir={shop / 'one'}" in said
  )
  del config["ids"]["graph"]
  (shop / "one/config.json").write_text(json.dumps(config))
  said = written(report.report(shop / "one")).said("audit")
  assert "python -m lightlm_jax.audit --config=toys:tiny" in said
  assert "--config.ids.kind=gci" in said
  assert "--config.seed=5" in said
  assert "train" not in said
  assert f"--report={shop / 'one'}/audit.json" in said
