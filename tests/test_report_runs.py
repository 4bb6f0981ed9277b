"""The report of runs beside each other, and of what a run did not leave."""

import json
import re
import shutil

from etils import epath
import pytest
from report_pages import ask_again, change, command, make_run, written

from lightlm_jax.evaluation import compare, users
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.reporting import report, sections
from lightlm_jax.reporting import run_files as runs
from lightlm_jax.runtime.errors import UserError


def test_runs_are_compared_as_evaluate_does(shop):
  make_run(shop / "two", shop / "data", seed=1)
  make_run(shop / "three", shop / "data", seed=2, system="ease")
  out = shop / "out.html"
  folders = [str(shop / name) for name in ("one", "two", "three")]
  done = command(f"--workdir={folders[0]}", "--compare", *folders[1:], f"--out={out}")
  assert done.returncode == 0, done.stderr
  page = written(out)
  tables = {
    name: users.read(next(epath.Path(folder).glob("users-*")))
    for name, folder in zip(("one", "two", "three"), folders)
  }
  found = compare.compare(tables)
  said = page.said("comparison")
  for rule in RULES:
    for name, metrics in found["runs"][rule].items():
      low, high = metrics["ndcg@10"]["interval"]
      mean = metrics["ndcg@10"]["mean"]
      assert f"{name} {mean:.4f} [{low:.4f}, {high:.4f}]" in said
    for pair in found["pairs"][rule]:
      a, b = pair["runs"]
      low, high = pair["interval"]
      assert (
        f"{a} minus {b} {pair['difference']:+.4f} {low:+.4f} … {high:+.4f} "
        f"{pair['p']:.4f} {pair['p_holm']:.4f}"
      ) in said
  assert 'system "lightlm" "lightlm" "ease"' in page.said("setup")
  assert "three: ease is fitted, not trained in steps" in page.said("learning")
  assert "No ids are used by three" in page.said("ids")
  for name in ("one", "two", "three"):
    assert page.said("examples").count(f"Recommended by {name}") == 8


def test_runs_of_other_splits_are_refused_and_nothing_is_written(shop):
  make_run(shop / "two", shop / "data", seed=1)
  change(shop / "two/results.json", split_sha256="0" * 64)
  done = command(f"--workdir={shop / 'one'}", "--compare", str(shop / "two"))
  assert done.returncode == 2
  assert "one and two cannot be compared: their split_sha256 is" in done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert not list(shop.glob("*/report.html*"))


@pytest.mark.parametrize(
  ("others", "message"),
  [
    (["one"], "two runs are called one"),
    (["none"], r"none/config\.json does not exist"),
  ],
)
def test_what_cannot_be_compared_is_one_line(shop, others, message):
  with pytest.raises(UserError, match=message):
    report.report(shop / "one", [shop / name for name in others])


def test_damaged_results_are_one_line(shop):
  (shop / "one/results.json").write_text("{")
  with pytest.raises(UserError, match=r"cannot read .*results\.json"):
    report.report(shop / "one")


@pytest.mark.parametrize(
  ("file", "field", "value", "wrong"),
  [
    ("results.json", "metrics", {}, "metrics has no seen_excluded, seen_allowed"),
    ("results.json", "num_users", float("nan"), "num_users is nan"),
    ("results.json", "decoding", ["beam"], "decoding is .*, not a text"),
    ("results.json", "split", "train", "not test or validation"),
    ("results.json", "audit", {"failures": 3}, "audit.failures is 3, not a list"),
    ("config.json", "split", "ratio", "split is 'ratio', not an object"),
    ("config.json", "data", None, "data is None, not an object"),
    ("audit.json", "passed", "yes", "passed is 'yes', not true or false"),
  ],
)
def test_a_file_with_a_field_of_another_type_is_one_line(
  shop, file, field, value, wrong
):
  path = shop / "one" / file
  content = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(content | {field: value}))
  with pytest.raises(UserError, match=rf"cannot read .*{file} .*{wrong}"):
    runs.read(shop / "one")


def test_ids_that_are_not_those_of_the_results_are_left_out(shop, logged):
  assert runs.read(shop / "one").book is not None
  (shop / "one/codes/manifest.json").write_text("{")
  assert runs.read(shop / "one").book is None
  assert "one/codes are not the ids of the run's results" in logged[-1]


def test_results_that_lack_a_field_are_those_of_no_version(shop):
  content = json.loads((shop / "one/results.json").read_text())
  del content["split_sha256"]
  (shop / "one/results.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match="it has no split_sha256"):
    runs.read(shop / "one")


def test_lines_of_metrics_that_are_no_records_are_passed_over(shop):
  lines = [b'{"step": 1, "loss": 2.0}', '{"step": 2, "x": "é"}'.encode("latin-1")]
  lines += [b'{"step": "3"}', b"[4]", b'{"step": 1%s}' % (b"0" * 400), b'{"step": 5}']
  (shop / "one/metrics.jsonl").write_bytes(b"\n".join(lines))
  assert runs.read(shop / "one").journal == [{"step": 1, "loss": 2.0}, {"step": 5}]


def test_a_loss_that_is_no_number_is_not_drawn(shop):
  lines = [{"step": step, "loss": loss} for step, loss in ((1, 2.0), (2, "x"))]
  (shop / "one/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
  learning = sections.learning([runs.read(shop / "one")])
  assert "at the end: one 2.0000" in learning["figures"][0]["chart"]


def test_what_an_older_run_lacks_is_said_with_the_command(shop):
  change(
    shop / "one/results.json",
    **dict.fromkeys(("intervals", "slices", "exposure", "split", "repeated_targets")),
  )
  (path,) = (shop / "one").glob("users-*")
  path.unlink()
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  command = f"python -m lightlm_jax.evaluate --workdir={shop / 'one'}"
  for section, what in (
    ("result", "intervals"),
    ("slices", "slices"),
    ("popularity", "table of users"),
    ("examples", "table of users"),
  ):
    assert f"one has no {what}" in page.said(section)
    assert command in page.said(section)
  assert "Seen allowed" in page.said("result")

  config = json.loads((shop / "one/config.json").read_text())
  del config["ids"]["graph"]
  (shop / "one/config.json").write_text(json.dumps(config))
  report.report(shop / "one")
  said = written(shop / "one/report.html").said("slices")
  assert "refuses its older version (it has no ids.graph)" in said
  assert (
    "lightlm_jax.train --config=toys:tiny "
    f"--config.data.dir={shop / 'data'} --config.data.name=shop "
    f"--workdir={shop / 'one'}-anew"
  ) in said


def test_what_evaluate_found_later_completes_an_older_run(shop):
  path = shop / "one/results.json"
  whole = json.loads(path.read_text())
  (shop / "one/results-test-beam.json").write_text(json.dumps(whole))
  change(path, intervals=None)
  assert runs.read(shop / "one").results["intervals"] == whole["intervals"]
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert "has no intervals" not in page.said("result")
  assert "test, beam" in page.said("result")
  # Figures of other metrics would be another model's intervals.
  other = whole["metrics"]["seen_allowed"] | {"ndcg@10": 0.5}
  change(
    shop / "one/results-test-beam.json",
    metrics=whole["metrics"] | {"seen_allowed": other},
  )
  assert "intervals" not in runs.read(shop / "one").results


def test_an_unfinished_run_has_a_report(shop):
  for path in (shop / "one").glob("[!c]*.*"):
    if path.name != "metrics.jsonl":
      path.unlink()
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert "because it is not finished; this resumes it" in page.said("result")
  assert f"--workdir={shop / 'one'}" in page.said("result")
  assert "NDCG@10, seen excluded" in page.said("learning")
  assert "audit" in page.ids


def test_nothing_but_a_configuration_is_enough(shop):
  for path in (shop / "one").iterdir():
    if path.name != "config.json":
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  report.report(shop / "one")
  assert "has no metrics.jsonl" in written(shop / "one/report.html").said("learning")


def test_data_that_are_not_here_are_said(shop):
  shutil.move(shop / "data", shop / "elsewhere")
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  for section in ("popularity", "examples"):
    assert "sequences.txt does not exist" in page.said(section)
  assert page.said("examples").count("Target i") == 8
  report.report(shop / "one", data_dir=str(shop / "elsewhere"))
  assert "thing" in written(shop / "one/report.html").said("examples")
  with (shop / "elsewhere/shop/sequences.txt").open("a") as file:
    file.write("another i01 i02 i03\n")
  report.report(shop / "one", data_dir=str(shop / "elsewhere"))
  said = written(shop / "one/report.html").said("popularity")
  assert "is not the one of one" in said


def test_a_table_of_users_of_another_log_is_not_shown(shop):
  (path,) = (shop / "one").glob("users-*")
  table, about = users.read(epath.Path(path))
  about["split_sha256"] = "0" * 64
  metadata = {b"lightlm_jax": json.dumps(about)}
  users.write(epath.Path(path), table.replace_schema_metadata(metadata))
  report.report(shop / "one")
  said = written(shop / "one/report.html").said("examples")
  assert "one has no table of users" in said
  assert "Target thing" not in said


def test_validation_is_reported_and_nothing_of_the_test(shop):
  hidden = ask_again(shop / "one", 7, decoding="exact")
  ask_again(shop / "one", 8, beam_size=50, width=50)
  own = ask_again(shop / "one", 5, split_name="validation")
  exact = ask_again(shop / "one", 6, split_name="validation", decoding="exact")
  test = json.loads((shop / "one/results.json").read_text())
  done = command(f"--workdir={shop / 'one'}", "--split=validation")
  assert done.returncode == 0, done.stderr
  page = written(shop / "one/report-validation.html")
  assert not (shop / "one/report.html").exists()
  assert "on shop: validation" in " ".join(page.words[None])
  said = page.said("result")
  assert "split validation" in said
  for rule in RULES:
    low, high = own["intervals"][rule]["ndcg@10"]
    assert f"{low:.4f} to {high:.4f}" in said
    for found, shown in ((own, True), (exact, True), (test, False), (hidden, False)):
      assert (f"{found['metrics'][rule]['ndcg@10']:.4f}" in said) == shown
  assert "validation, 60 users" in page.said("beams").lower()
  assert "test, 60 users" not in page.said("beams").lower()
  table, _ = users.read(epath.Path(shop / "one/users-validation-beam.parquet"))
  rows = {row["user"]: row for row in table.to_pylist()}
  examples = page.said("examples")
  for user in re.findall(r"User (u\d\d)", examples):
    assert f"Target thing {int(rows[user]['target'][1:])} of the shop" in examples
  assert examples.count("Target thing") == 8

  make_run(shop / "two", shop / "data", seed=1, system="ease")
  with pytest.raises(UserError, match=r"two left no results-validation-scores\.json"):
    report.report(shop / "one", [shop / "two"], split_name="validation")
  ask_again(shop / "two", 8, split_name="validation")
  path = report.report(shop / "one", [shop / "two"], split_name="validation")
  assert "on the test split, once" in written(path).said("comparison")


@pytest.mark.parametrize(("field", "value"), [("best_step", 3), ("split_sha256", "3")])
def test_validation_of_a_state_that_was_trained_on_is_refused(shop, field, value):
  ask_again(shop / "one", 5, split_name="validation")
  change(shop / "one/results-validation-beam.json", **{field: value})
  with pytest.raises(UserError, match=f"another state .*{field} 3, now .*again"):
    report.report(shop / "one", split_name="validation")


def test_validation_that_nobody_asked_is_one_line(shop):
  ask_again(shop / "one", 6, split_name="validation", decoding="exact")
  done = command(f"--workdir={shop / 'one'}", "--split=validation")
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert "one left no results-validation-beam.json" in line
  assert f"evaluate --workdir={shop / 'one'} --split=validation" in line


def test_a_table_says_that_baselines_have_no_intervals(shop):
  report.report(shop / "one")
  assert "Baselines have no intervals" in written(shop / "one/report.html").said(
    "result"
  )
  make_run(shop / "two", shop / "data", seed=1)
  change(shop / "two/results.json", baselines=None)
  report.report(shop / "two")
  said = written(shop / "two/report.html").said("result")
  assert "95 % intervals over users" in said
  assert "Baselines have" not in said
