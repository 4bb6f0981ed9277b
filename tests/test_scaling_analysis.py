"""A study's folder: its figures, its page and its JSON, from its table alone."""

import json
import re
import sys
import xml.etree.ElementTree

import numpy as np
import polars as pl
import pytest
from report_pages import command, written
import studies

from lightlm_jax.reporting import charts
from lightlm_jax.reporting import drawing as figures
from lightlm_jax.reporting import html as page
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import analysis, fronts, points
from lightlm_jax.studies import study_figures as shapes
from lightlm_jax.studies import summary as table_lib

SCRIPT = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  """A study of two data sets, analysed, and what it returned."""
  found = studies.rows(depths=(2, 8), widths=(32, 64, 128), ffns=(0.5, 4.0))
  small = studies.rows(depths=(2, 8), widths=(32, 64), ffns=(1.0,))
  found += [row | {"dataset": "beauty"} for row in small]
  found.append(studies.failed(found[0], f"out of memory {SCRIPT}"))
  folder = studies.write(tmp_path_factory.mktemp("studies") / "shapes", found)
  return folder, analysis.analyse(folder, resamples=20)


def test_all_is_written_and_returned(study):
  folder, report = study
  assert json.loads((folder / "analysis.json").read_text()) == report
  assert report["trials"] == {"finished": 32, "failed": 1}
  assert report["axes"] == ["depth", "width", "ffn"]
  toys, beauty = report["families"]
  assert toys["family"] == {"dataset": "toys", "system": "lightlm"}
  assert beauty["family"]["dataset"] == "beauty"
  names = {point["name"] for point in toys["points"]}
  assert len(names) == 12
  assert {name for front in toys["fronts"] for name in front["points"]} <= names
  alpha = toys["laws"]["parameters"]["numbers"]["alpha"]
  assert alpha == pytest.approx(studies.LAW.alpha, abs=0.1)
  files = {str(p.relative_to(folder)) for p in folder.glob("figures/*")}
  assert files == set(report["figures"])
  assert {name.rsplit(".", 1)[0] + ".png" for name in files} <= files
  assert any("toys" in name for name in files)
  for wanted in ("loss-parameters", "loss-flops", "loss-seconds", "ndcg-parameters",
                 "ndcg-flops", "ndcg-seconds", "shape-loss", "shape-ndcg"):  # fmt: skip
    assert f"figures/1-beauty-lightlm-{wanted}.svg" in files
  # There is one amount of data, one feed-forward and no group of four sizes on Beauty.
  for missing in ("data", "ffn", "iso-flop", "law"):
    assert not [name for name in files if "beauty" in name and missing in name]
  assert not [name for name in folder.rglob("*") if name.suffix == ".part"]


def test_figures_are_whole_and_say_rule_and_split(study):
  folder, report = study
  for name in report["figures"]:
    content = (folder / name).read_bytes()
    if name.endswith(".png"):
      assert content.startswith(b"\x89PNG")
      continue
    text = " ".join(xml.etree.ElementTree.fromstring(content).itertext())
    assert "validation" in text
    assert "<image" not in content.decode()  # no pixels in what is to be scaled
    if "ndcg" in name:
      assert "seen excluded" in text
      assert "seen allowed" in text


def test_the_same_table_gives_the_same_bytes(tmp_path):
  found = studies.rows(depths=(2,), widths=(32, 64), ffns=(1.0,))
  one, other = (studies.write(tmp_path / n / "study", found) for n in "ab")
  report = analysis.analyse(one, resamples=5)
  assert analysis.analyse(other, resamples=5) == report
  for name in ("analysis.json", "report.html", *report["figures"]):
    assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_page_is_whole_and_says_what_was_found(study):
  folder, report = study
  shown = written(folder / "report.html")
  assert "32 trials finished 1 trials failed" in shown.said("trials")
  assert SCRIPT in shown.said("trials")
  for number, family in enumerate(report["families"]):
    said = shown.said(f"family-{number}")
    for sentence in family["said"]:
      assert " ".join(sentence.split()) in said
    for point in family["points"]:
      assert point["name"] in said
    assert f"{family['points'][0]['ndcg@10_seen_allowed']:.4f}" in said
  figures = [attrs for tag, attrs in shown.tags if attrs.get("class") == "drawn"]
  assert len(figures) == len(report["figures"]) // 2
  assert "validation NDCG@10" in shown.said("family-1")
  # What a figure refers to lies in the page, each once.
  text = (folder / "report.html").read_text()
  used = set(re.findall(r'xlink:href="#([^"]+)"', text))
  assert used
  ids = re.findall(r' id="([^"]+)"', text)
  assert used <= set(ids)
  assert len(ids) == len(set(ids))


def test_drawings_take_the_colours_of_the_page(study):
  folder, _ = study
  text = (folder / "report.html").read_text()
  body = text[text.index("<body>") :]
  assert "var(--s1)" in body
  assert "var(--ink)" in body
  assert not re.search(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'href="#[^"]*"', "", body))
  assert page.colours()["s1"] in text[: text.index("<body>")]


def test_ticks_keep_their_decimals(study):
  folder, _ = study
  svg = (folder / "figures/1-beauty-lightlm-ndcg-flops.svg").read_bytes()
  ticks = set(re.findall(r">(0\.0\d+)<", svg.decode()))
  assert any(len(tick) > 4 for tick in ticks)
  assert set(re.findall(r">(0\.0\d+)<", str(charts.inline(svg, "n", "l")))) == ticks


def test_the_command_says_it_and_where(tmp_path):
  rows = studies.rows(depths=(2,), widths=(32,), ffns=(1.0,), seeds=(0,))
  folder = studies.write(tmp_path / "one", rows)
  done = command(f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  report = json.loads((folder / "analysis.json").read_text())
  said = " ".join(done.stdout.split())
  assert report["families"][0]["said"][0] in said
  assert f"written to {folder / 'report.html'}" in said
  written(folder / "report.html")
  refused = command(f"--workdir={folder}", "--split=validation")
  assert refused.returncode == 2
  assert "is a study" in refused.stderr
  assert refused.stderr.count("\n") == 1


def test_what_is_not_there_is_left_out(tmp_path):
  """Systems without a loss, without parameters, without a second seed; run away."""
  found = [
    row | {"system": "ease", "validation_loss": None, "params": None, "d_ff": None,
           "params_non_embedding": None, "train_flops": None, "num_layers": None,
           "num_decoder_layers": None, "d_model": None}
    for row in studies.rows(depths=(2,), widths=(32, 64), ffns=(1.0,))
  ]  # fmt: skip
  found += studies.rows(depths=(2,), widths=(32,), ffns=(1.0,), seeds=(0,))
  found[-1]["validation_loss"] = float("nan")
  folder = studies.write(tmp_path / "odd", found)
  report = analysis.analyse(folder, resamples=5)
  written(folder / "report.html")
  for family in report["families"]:
    assert family["laws"]["parameters"]["reason"] == "no run has a validation loss"
  assert not [name for name in report["figures"] if "loss" in name]
  assert [name for name in report["figures"] if "ease-ndcg-seconds" in name]


def test_a_study_that_has_hardly_begun(tmp_path):
  row = studies.rows(depths=(2,), widths=(32,), ffns=(1.0,), seeds=(0,))
  folder = studies.write(tmp_path / "failed", [studies.failed(row[0])])
  assert analysis.analyse(folder)["families"] == []
  assert "No trial has finished" in written(folder / "report.html").said("trials")
  one = studies.write(tmp_path / "one", row)
  report = analysis.analyse(one)
  assert report["figures"] == []
  assert "The only point has a validation NDCG@10" in report["families"][0]["said"][0]


def test_figures_of_an_earlier_analysis_go_and_others_stay(tmp_path):
  rows = studies.rows(depths=(2,), widths=(32,), ffns=(1.0,))
  folder = studies.write(tmp_path / "study", rows)
  (folder / "figures").mkdir()
  for name in ("figures/own.png", "kept.svg", "figures/older.svg"):
    (folder / name).write_text("x")
  older = ["kept.svg", "figures/../kept.svg", "figures/older.svg", 3]
  (folder / "analysis.json").write_text(json.dumps({"figures": older}))
  assert analysis.analyse(folder)["figures"] == []
  left = {str(path.relative_to(folder)) for path in folder.glob("figures/*")}
  assert left == {"figures/own.png"}
  assert (folder / "kept.svg").exists()


def test_mistakes_are_one_line(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"summary.parquet does not exist; give"):
    analysis.analyse(tmp_path)
  (tmp_path / table_lib.FILE).write_bytes(b"no table")
  with pytest.raises(UserError, match=r"cannot read .*summary\.parquet"):
    analysis.analyse(tmp_path)
  pl.DataFrame({"trial": ["a"]}).write_parquet(tmp_path / table_lib.FILE)
  with pytest.raises(UserError, match="has no column state, reason, dataset"):
    analysis.analyse(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [table_lib.FILE]
  folder = studies.write(tmp_path / "s", studies.rows(depths=(2,), widths=(32,)))
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
  with pytest.raises(UserError, match="need matplotlib: pip install"):
    analysis.analyse(folder)
  assert [path.name for path in folder.iterdir()] == [table_lib.FILE]


def test_axes_have_few_ticks_and_two_at_least():
  rng = np.random.default_rng(0)
  panel = figures.new(3, 3).subplots()
  for _ in range(40):
    low = 10 ** rng.uniform(0, 15)
    high = low * 10 ** rng.uniform(0.01, 5)
    shapes.log_axis(panel, np.array([low, high]))
    at = panel.get_xticks()
    assert 2 <= len(at) <= 6
    assert ((0.89 * low < at) & (at < 1.11 * high)).all()
    texts = [text.get_text() for text in panel.get_xticklabels()]
    assert len(set(texts)) == len(texts) or high < 1.1 * low
    assert panel.get_xticks(minor=True).size == 0


def test_names_and_amounts_are_short():
  assert points.name_of({"depth": 8, "ffn": 0.03125}, ("depth", "ffn")) == (
    "depth 8 × ffn 0.03125"
  )
  said = [points.amount(v) for v in (7, 999, 1000, 123456, 999_600, 1.5e6, 2.5e9)]
  assert said == ["7", "999", "1 k", "123 k", "1 M", "1.5 M", "2.5 G"]


def test_the_legend_of_the_feed_forwards_names_what_has_several():
  found = studies.rows(depths=(2, 4, 8), widths=(32,), ffns=(0.5,))
  found += studies.rows(depths=(4,), widths=(32,), ffns=(1.0, 4.0))
  (family,) = studies.families(found)
  lines = fronts.narrowing(family)
  figure = shapes.narrowing(family, lines, [points.LOSS]).figure
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["depth 4"]
