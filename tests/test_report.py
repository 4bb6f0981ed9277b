"""The report of a run: what it left, and nothing of it is code to the page."""

import collections
import json
import re
import shutil
import tempfile

from chromium import Browser
from conftest import ROOT
import numpy as np
import pytest
from report_pages import (
  SCRIPT,
  U,
  ask_again,
  change,
  change_about,
  command,
  make_data,
  make_run,
  written,
)

from lightlm_jax import config
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.reporting import lists, report, sections
from lightlm_jax.reporting import run_files as runs
from lightlm_jax.runs import results

SECTIONS = (
  "result learning slices popularity ids examples setup audit comparison beams "
  "state_indexes"
).split()


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
  assert page.said("examples").count("Target ") == 8


def test_every_section_says_what_the_run_left(shop):
  report.report(shop / "one")
  page = written(shop / "one/report.html")
  assert [name for name in SECTIONS if name in page.ids] == SECTIONS[:-3]
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
  fields = config.flatten(json.loads((shop / "one/config.json").read_text()))
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
  assert said.count("✓ target") == 1 + 4  # the first tells what it means
  title = dict(zip(log.train.item_ids.tolist(), log.titles))
  request = {log.train.user_ids[u]: n for n, u in enumerate(log.requests.user_N)}
  for n in wanted:
    row = run.users.slice(n, 1).to_pylist()[0]
    history = log.train.item_ids[log.requests.row(request[row["user"]])].tolist()
    shown = " → ".join(f"{title[item]} {item}" for item in history[-6:])
    start = "… " if len(history) > 6 else ""
    assert f"User {row['user']} History {start}{shown}" in said
    assert f"Target {title[row['target']]} {row['target']}" in said
    for item in row["seen_excluded_items"]:
      assert f"{title[item]} {item}" in said
  hit = run.users.slice(wanted[0], 1).to_pylist()[0]
  assert f"is at rank {hit['seen_excluded_rank']}" in said


def test_rows_are_chosen_half_and_half_and_filled_up():
  def choose(hits):
    return lists.choose(np.array([letter == "h" for letter in hits], bool))

  assert choose("hhhhhhmmmmmm") == [0, 1, 2, 3, 6, 7, 8, 9]
  assert choose("mmmmmmmmmh") == [0, 1, 2, 3, 4, 5, 6, 9]
  assert choose("hhhhhhhhhm") == [0, 1, 2, 3, 4, 5, 6, 9]
  assert choose("hm") == [0, 1]
  assert choose("") == []


def test_what_comes_from_data_is_text(tmp_path, monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  make_data(tmp_path / "data", title="{} " + SCRIPT + "&amp;\"'")
  name = "<b>one"
  make_run(tmp_path / name, tmp_path / "data")
  make_run(tmp_path / "two", tmp_path / "data", seed=1)
  fitted = "<i>three`"
  make_run(tmp_path / fitted, tmp_path / "data", seed=2, system="ease")
  change(tmp_path / name / "results.json", system="<script>", preset="<img src=x>")
  (path,) = (tmp_path / name).glob("users-*")
  change_about(path, system="<script>")
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
  for folder in ("one", others[0]):
    ask_again(shop / folder, 3, decoding="exact")
    ask_again(shop / folder, 4, beam_size=1000, width=1000)
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
