"""The report: what it shows is what runs left, and nothing of theirs is code to it."""

import collections
import html.parser
import json
import re
import shutil
import subprocess
import sys
import tempfile

from chromium import Browser
from conftest import ROOT
from etils import epath
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax import report, results
from lightlm_jax.data import datasets, splits
from lightlm_jax.errors import UserError
from lightlm_jax.evaluation import (
  compare,
  evaluator,
  exposure,
  slices,
  uncertainty,
  users,
)
from lightlm_jax.evaluation.evaluator import RULES, Ranks
from lightlm_jax.ids import codes
from lightlm_jax.reporting import lists, runs, sections

SCRIPT = "<script>document.title='owned'</script>"
U, I = 60, 25
SECTIONS = (
  "result learning slices popularity ids examples setup audit comparison".split()
)


class Page(html.parser.HTMLParser):
  """A page taken apart: its tags have to be closed in order."""

  EMPTY = frozenset(("meta", "br"))

  def __init__(self, text):
    super().__init__()
    self.ids, self.targets, self.tags, self.words = [], [], [], {None: []}
    self._open, self._section = [], None
    self.feed(text)
    self.close()
    assert not self._open, f"never closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      if name in ("src", "href", "srcset", "data", "action"):
        self.targets.append(value)
    if tag == "section":
      self._section = dict(attrs)["id"]
      self.words[self._section] = []
    if tag not in self.EMPTY:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open, f"</{tag}> closes nothing"
    assert self._open.pop() == tag
    if tag == "section":
      self._section = None

  def handle_data(self, data):
    if self._open and self._open[-1] not in ("style", "title"):
      self.words[self._section].append(data)

  def said(self, section):
    """The text of a section, a blank for every tag and line."""
    return " ".join(" ".join(self.words[section]).split())


def written(path):
  """The page of a file, after what every report has to be."""
  text = path.read_text()
  page = Page(text)
  assert len(text.encode()) < 3e6
  assert len(page.ids) == len(set(page.ids))
  assert page.targets
  for target in page.targets:
    assert target.startswith("#"), f"{target} lies outside the file"
    assert target[1:] in page.ids
  assert "script" not in {tag for tag, _ in page.tags}
  assert not re.search(r"url\(|@import|@font-face", text)
  for tag, attrs in page.tags:
    assert not [name for name in attrs if name.startswith("on")], tag
    if tag == "svg" and attrs.get("aria-hidden") != "true":
      assert attrs["role"] == "img"
      assert attrs["aria-label"]
  return page


def make_data(folder, title="{} of the shop"):
  """A log of U users and I items with texts, in a data folder."""
  rng = np.random.default_rng(0)
  (folder / "shop").mkdir(parents=True)
  rows = [
    f"u{user:02} " + " ".join(f"i{i:02}" for i in rng.permutation(I)[: 3 + user % 9])
    for user in range(U)
  ]
  (folder / "shop/sequences.txt").write_text("\n".join(rows) + "\n")
  titles = [f"i{i:02}\t{title.format(f'thing {i}')}" for i in range(I)]
  (folder / "shop/items.tsv").write_text("\n".join(["id\ttext", *titles]) + "\n")


def make_run(folder, data_dir, *, seed=0, system="lightlm"):
  """What a finished run leaves, its ranks drawn: nothing is trained."""
  config = config_lib.load("toys", "tiny", {"data.name": "shop", "system": system})
  config.data.dir = str(data_dir)
  folder.mkdir()
  (folder / "config.json").write_text(config_lib.to_json(config))
  split = splits.make(config.split, datasets.load(config).log)
  rng = np.random.default_rng(seed)
  asked = split.test
  ranks = {}
  for rule in RULES:
    items_NK = np.stack([rng.permutation(I)[:20] for _ in range(len(asked))])
    found_NK = items_NK == asked.target_N[:, None]
    rank_N = np.where(found_NK.any(axis=1), 1 + found_NK.argmax(axis=1), 0)
    ranks[rule] = Ranks(rank_N.astype(np.int32), np.zeros_like(rank_N), items_NK)
  values = {rule: users.values(r.rank_N, r.ties_N) for rule, r in ranks.items()}
  bought_I = np.bincount(split.train.item_E, minlength=I)
  book = codes.code_book(
    codes.stack_codes([(i % 5, 5 + i) for i in range(I)]),
    codes.stack_codes([(u % 5, 5 + u) for u in range(U)]),
    {"kind": "sci", "options": {}},
  )
  writes_ids = system == "lightlm"
  if writes_ids:
    codes.save(book, folder / "codes")
    lines = [
      {"step": step, "loss": 9 - step / 10, "validation": {"ndcg@10": step / 100}}
      for step in (10, 20, 30)
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 40, "lo'
    (folder / "metrics.jsonl").write_text(text)
  found = {
    "system": system,
    "dataset": "shop",
    "preset": "tiny",
    "ids": {"kind": "sci", "manifest_sha256": book.sha256} if writes_ids else None,
    "seed": seed,
    "steps": 30 if writes_ids else None,
    "params": {"total": 1234, "non_embedding": 567} if writes_ids else None,
    "train_seconds": 61.4 if writes_ids else None,
    "examples_per_second": 4321.0 if writes_ids else None,
    "users_per_second": 8765.0,
    "num_users": len(asked),
    "decoding": "beam" if writes_ids else None,
    "beam_size": 20 if writes_ids else None,
    "protocol": "leave_one_out",
    "split": "test",
    "split_sha256": split.sha256,
    "best_step": 20 if writes_ids else None,
    "metrics": evaluator.summarise_rules(ranks),
    "intervals": {
      rule: {name: list(uncertainty.interval(v_N)) for name, v_N in metrics.items()}
      for rule, metrics in values.items()
    },
    "slices": {
      rule: slices.summarise(metrics, slices.label(asked, split.train))
      for rule, metrics in values.items()
    },
    "hallucination_rate": 0.123 if writes_ids else None,
    "repeated_targets": 0,
    "exposure": {
      rule: exposure.summarise(r.items_NK, bought_I) for rule, r in ranks.items()
    },
    "audit": None,
    "baselines": {"pop": evaluator.summarise_rules(ranks)},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "devices": ["TPU v4"] * 8,
  }
  (folder / "results.json").write_text(json.dumps(found))
  table = users.table(asked, ranks, split.train, results.about(found))
  name = results.file_name("users", found) + ".parquet"
  users.write(epath.Path(folder / name), table)
  return found


@pytest.fixture
def shop(tmp_path, monkeypatch):
  """A folder with the shop's data and one finished run, called one."""
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  make_data(tmp_path / "data")
  make_run(tmp_path / "one", tmp_path / "data")
  return tmp_path


def change(path, **fields):
  """Sets fields of a JSON file; None removes one."""
  changed = json.loads(path.read_text()) | fields
  kept = {name: value for name, value in changed.items() if value is not None}
  path.write_text(json.dumps(kept))


def command(*arguments, **options):
  return subprocess.run(
    [sys.executable, "-m", "lightlm_jax.report", *arguments],
    **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300} | options,
  )


def test_the_command_reports_a_trained_run(demo_run, tmp_path):
  run = demo_run[0]
  done = command(f"--workdir={run}", f"--out={tmp_path / 'out.html'}")
  assert done.returncode == 0, done.stderr
  assert re.fullmatch(r"written to .*/out\.html, \d+ kB\n", done.stdout)
  page = written(tmp_path / "out.html")
  found = json.loads((run / "results.json").read_text())
  said = page.said("result")
  tables = {**found["baselines"], "lightlm": found["metrics"]}
  tables["best possible"] = tables.pop("best_possible")
  plain = re.sub(r" \.\d{3}–\.\d{3}", "", said)  # the intervals left out
  assert plain != said
  for name, metrics in tables.items():
    for rule in RULES:
      cells = " ".join(f"{metrics[rule][column]:.4f}" for column in results.COLUMNS)
      assert f"{name} {cells}" in plain
  assert "Seen excluded" in said
  assert "Seen allowed" in said
  assert f"{found['expected_best_ndcg@10']:.4f} on average" in said
  assert "300" in said
  assert page.said("examples").count("Bought next") == 8


def test_every_section_says_what_the_run_left(shop):
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert [name for name in SECTIONS[:-1] if name in page.ids] == SECTIONS[:-1]
  assert "comparison" not in page.ids
  found = json.loads((shop / "one/results.json").read_text())
  said = page.said("result")
  pop = [found["baselines"]["pop"][rule] for rule in RULES]
  for rule, metrics in zip(RULES, pop):
    low, high = found["intervals"][rule]["ndcg@10"]
    assert f"{low:.4f} to {high:.4f}" in said
    cells = " ".join(f"{metrics[column]:.4f}" for column in results.COLUMNS)
    assert f"pop {cells}" in said
  assert "12.3 %" in said
  excluded, allowed = (found["slices"][rule]["target"] for rule in RULES)
  for part, figures in excluded.items():
    if figures["users"]:
      means = [rule[part]["mean"]["ndcg@10"] for rule in (excluded, allowed)]
      shown = "{} {} users {:.4f} {:.4f}".format(part, figures["users"], *means)
      assert shown in page.said("slices")
  assert f"{100 * found['exposure']['seen_allowed']['coverage@10']:.1f} %" in page.said(
    "popularity"
  )
  assert "best step is kept: 20" in page.said("learning")
  assert "1 5 5 5 0 2 25 25 1 25" in page.said("ids")
  for words in ("1,234", "567", "1 min 01 s", "4,321", "8,765", "8 × TPU v4", "0.10.2"):
    assert words in page.said("setup")
  fields = runs.flatten(json.loads((shop / "one/config.json").read_text()))
  for name in fields:
    assert name in page.said("setup")
  assert "not audited" in page.said("audit")


def test_examples_are_hits_and_misses_with_their_histories(shop):
  report.report(shop / "one")
  said = written(shop / "one/report.html").said("examples")
  run = runs.read(shop / "one")
  log = runs.read_log(run)
  hit_N = lists.hits(run.users, "seen_excluded")
  raw = run.users["user"].to_pylist()
  assert raw == sorted(raw)
  wanted = np.flatnonzero(hit_N)[:4].tolist() + np.flatnonzero(~hit_N)[:4].tolist()
  assert re.findall(r"User (u\d\d)", said) == [raw[n] for n in sorted(wanted)]
  assert said.count("✓ bought") == 1 + 4  # the first tells what it means
  title = dict(zip(log.train.item_ids.tolist(), log.titles))
  request = {log.train.user_ids[u]: n for n, u in enumerate(log.requests.user_N)}
  for n in wanted:
    row = run.users.slice(n, 1).to_pylist()[0]
    history = log.train.item_ids[log.requests.row(request[row["user"]])].tolist()
    shown = " → ".join(f"{title[item]} {item}" for item in history[-6:])
    start = "… " if len(history) > 6 else ""
    assert f"User {row['user']} Had {start}{shown}" in said
    assert f"Bought next {title[row['target']]} {row['target']}" in said
    for item in row["seen_excluded_items"]:
      assert f"{title[item]} {item}" in said
  hit = run.users.slice(wanted[0], 1).to_pylist()[0]
  assert f"comes at place {hit['seen_excluded_rank']}" in said


def test_rows_are_chosen_half_and_half_and_filled_up():
  def choose(hits):
    return lists.choose(np.array([letter == "h" for letter in hits], bool))

  assert choose("hhhhhhmmmmmm") == [0, 1, 2, 3, 6, 7, 8, 9]
  assert choose("mmmmmmmmmh") == [0, 1, 2, 3, 4, 5, 6, 9]
  assert choose("hhhhhhhhhm") == [0, 1, 2, 3, 4, 5, 6, 9]
  assert choose("hm") == [0, 1]
  assert choose("") == []


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
        f"{a} less {b} {pair['difference']:+.4f} {low:+.4f} … {high:+.4f} "
        f"{pair['p']:.4f} {pair['p_holm']:.4f}"
      ) in said
  assert 'system "lightlm" "lightlm" "ease"' in page.said("setup")
  assert "three: ease is fitted, not trained in steps" in page.said("learning")
  assert "No ids are written by three" in page.said("ids")
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
  with pytest.raises(UserError, match=r"cannot read .*results\.json") as error:
    report.report(shop / "one")
  assert "\n" not in str(error.value)


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
    assert f"one left no {what}" in page.said(section)
    assert command in page.said(section)
  assert "Seen allowed" in page.said("result")

  config = json.loads((shop / "one/config.json").read_text())
  del config["ids"]["graph"]
  (shop / "one/config.json").write_text(json.dumps(config))
  report.report(shop / "one")
  said = written(shop / "one/report.html").said("slices")
  assert "of an older version (it has no ids.graph)" in said
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
  assert "left no intervals" not in page.said("result")
  assert "test, beam" in page.said("result")
  # Figures of other metrics would be another model's intervals.
  change(shop / "one/results-test-beam.json", metrics=whole["baselines"])
  assert "intervals" not in runs.read(shop / "one").results


def test_an_unfinished_run_has_a_report(shop):
  for path in (shop / "one").glob("[!c]*.*"):
    if path.name != "metrics.jsonl":
      path.unlink()
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert "it is not finished; this resumes it" in page.said("result")
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
  assert page.said("examples").count("Bought next i") == 8
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
  assert "one left no table of users" in said
  assert "Bought next" not in said


@pytest.mark.parametrize("where", ["audit.json", "results.json"])
def test_a_failed_audit_marks_the_table(shop, where):
  lines = ["7 held-out interactions shaped the ids", SCRIPT]
  audit = {"passed": False, "failures": lines, "held_out_edges": 7}
  if where == "audit.json":
    (shop / "one/audit.json").write_text(json.dumps(audit))
  else:
    change(shop / "one/results.json", audit=audit)
  report.report(shop / "one")
  page = written(shop / "one/report.html")
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

  audit |= {"passed": True, "failures": []}
  (shop / "one/audit.json").write_text(json.dumps(audit))
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert "✓ passed" in page.said("audit")
  assert not [a for _, a in page.tags if "suspect" in a.get("class", "")]


def test_the_command_that_audits_has_the_runs_own_ids(shop):
  config = json.loads((shop / "one/config.json").read_text())
  config["ids"]["kind"], config["seed"], config["train"]["steps"] = "gci", 5, 77
  (shop / "one/config.json").write_text(json.dumps(config))
  report.report(shop / "one")
  said = written(shop / "one/report.html").said("audit")
  assert "python -m lightlm_jax.audit --config=toys:tiny" in said
  assert "--config.ids.kind=gci" in said
  assert "--config.seed=5" in said
  assert "train" not in said
  assert f"--report={shop / 'one'}/audit.json" in said


def test_what_comes_from_data_is_text(tmp_path, monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  make_data(tmp_path / "data", title="{} " + SCRIPT + "&amp;\"'")
  name = "<b>one"
  make_run(tmp_path / name, tmp_path / "data")
  make_run(tmp_path / "two", tmp_path / "data", seed=1)
  fitted = "<i>three`"
  make_run(tmp_path / fitted, tmp_path / "data", seed=2, system="ease")
  change(tmp_path / name / "results.json", system="<script>", preset="<img src=x>")
  report.report(tmp_path / name)
  report.report(tmp_path / "two", [tmp_path / name, tmp_path / fitted])
  for folder in (name, "two"):
    page = written(tmp_path / folder / "report.html")
    assert f"{SCRIPT}&amp;\"'" in page.said("examples")
    assert not {"img", "script", "i"} & {tag for tag, _ in page.tags}
  assert "<i>three" in page.said("learning")
  assert f"Recommended by {name}" in page.said("examples")
  assert f"{name} 0." in page.said("comparison")


def test_showings_are_counted(shop):
  run = runs.read(shop / "one")
  log = runs.read_log(run)
  for rule in RULES:
    count = collections.Counter(
      item for row in run.users[f"{rule}_items"].to_pylist() for item in row
    )
    found_I = lists.shown(run.users, rule, log.train.item_ids)
    assert found_I.sum() == 10 * U
    assert dict(zip(log.train.item_ids.tolist(), found_I.tolist())) == {
      item: count[item] for item in log.train.item_ids.tolist()
    }


@pytest.mark.parametrize("order", ["evaluate, report", "report, evaluate"])
def test_a_notebook_can_import_both_commands(order):
  script = f"from lightlm_jax import {order}"
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def browser():
  programs = ("chromium", "chromium-browser", "google-chrome")
  program = next(filter(None, map(shutil.which, programs)), None)
  if program is None:
    pytest.skip("no chromium (apt-get install chromium): nobody looked at the report")
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    browser = Browser(program, folder)
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_whole_and_asks_nobody(shop, browser, scheme):
  make_run(shop / "a-run-with-quite_a_long_name_that_nobody_can_break", shop / "data")
  make_run(shop / "three", shop / "data", seed=2, system="ease")
  others = ["a-run-with-quite_a_long_name_that_nobody_can_break", "three"]
  report.report(shop / "one")
  out = shop / "compared.html"
  report.report(shop / "one", [shop / name for name in others], out=out)
  for path in (shop / "one/report.html", out):
    for width, height in ((360, 800), (1280, 900)):
      browser.open(path, width, height, scheme)
      browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
      # Not by innerWidth: a phone zooms out until it is as wide as the page.
      wide = browser.value("document.documentElement.scrollWidth")
      assert wide <= width, f"{path.name} is {wide} px wide on {width}"
      # Letters of a chart, on the screen: its own size by the scale of the drawing.
      smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('svg text')].map(t => "
        "parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"
      )
      assert smallest >= 11
      # Nothing of a chart lies outside of it, where it would be cut off.
      assert (
        browser.value(
          "[...document.querySelectorAll('svg text')].filter(t => { const s = "
          "t.ownerSVGElement.getBoundingClientRect(), r = t.getBoundingClientRect(); "
          "return r.left < s.left - 1 || r.right > s.right + 1 || "
          "r.bottom > s.bottom + 1 }).map(t => t.textContent)"
        )
        == []
      )
      paper = browser.value("getComputedStyle(document.body).backgroundColor")
      assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
      assert browser.picture().startswith(b"\x89PNG")
      asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
      ]
      assert asked == [path.as_uri()]
      complaints = ("Log.entryAdded", "Runtime.exceptionThrown")
      complaints += ("Runtime.consoleAPICalled",)
      assert not [e for e in browser.events if e["method"] in complaints]


def test_the_sections_are_those_of_the_template():
  template = (ROOT / "lightlm_jax/reporting/report.html.jinja").read_text()
  assert set(re.findall(r'<section id="(\w+)"', template)) == set(SECTIONS)
  assert set(sections.RULES) == set(RULES)
