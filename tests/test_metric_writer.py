"""metrics.jsonl and the progress bar."""

from etils import epath
import pytest
import rich.console

from lightlm_jax.runtime import log
from lightlm_jax.training.metric_writer import MetricWriter, ProgressBar, _RewrittenFile


def write_metrics(folder, lines):
  (folder / "metrics.jsonl").write_text(lines)


def test_metrics_file_drops_what_lies_behind_the_resumed_step(tmp_path):
  kept = '{"step": 10, "loss": 2.0}\n{"step": 20, "loss": 1.5}\n'
  write_metrics(tmp_path, kept + '{"step": 30, "loss": 1.0}\n{"step": 40, "lo')
  writer = MetricWriter(epath.Path(tmp_path), 20)
  writer.write(30, {"loss": 0.9, "validation": {"hr@5": 0.5}})
  writer.close()
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == kept + '{"step": 30, "loss": 0.9, "validation": {"hr@5": 0.5}}\n'


@pytest.mark.parametrize("torn", ['{"step": 1', "", "null", '"', "[]", '{"loss": 1}'])
def test_metrics_file_drops_a_torn_line(tmp_path, torn):
  whole = '{"step": 1, "loss": 2.0}\n'
  write_metrics(tmp_path, whole + torn)
  MetricWriter(epath.Path(tmp_path), 5).close()
  assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_metrics_file_of_a_fresh_start_is_empty(tmp_path):
  write_metrics(tmp_path, '{"step": 1, "loss": 2.0}\n')
  MetricWriter(epath.Path(tmp_path), 0).close()
  assert (tmp_path / "metrics.jsonl").read_text() == ""


def bar_output(capsys, **options):
  log.set_up()
  bar = ProgressBar(**options)
  for step in range(options["start"] + 1, options["total"] + 1):
    bar.advance(step)
  bar.log(options["total"], 1.23456, 98765.4)
  bar.close()
  return capsys.readouterr().out


def test_bar_writes_lines_where_there_is_no_terminal(capsys):
  (line,) = bar_output(capsys, start=5, total=10).splitlines()
  assert line == "step 10/10  loss 1.235  98,765 examples/s  0:00 left"


def test_bar_is_drawn_on_a_terminal(capsys, monkeypatch):
  console = rich.console.Console(force_terminal=True, width=100)
  monkeypatch.setattr(log, "console", lambda: console)
  out = bar_output(capsys, start=5, total=10)
  assert "\x1b[" in out
  assert "10/10" in out
  assert "loss 1.235" in out


def test_lines_at_an_address_are_written_anew(tmp_path):
  """Buckets take the mode "a" for "w": what was there before would be lost."""
  path = epath.Path(tmp_path / "metrics.jsonl")
  path.write_text("before\n")
  lines = _RewrittenFile(path)
  lines.write("now\n")
  lines.flush()
  lines.close()
  assert path.read_text() == "before\nnow\n"


@pytest.mark.parametrize("line", [b'{"x": "\xe9"}', b'{"step": "3"}', b"[1]"])
def test_lines_that_are_no_records_are_dropped(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n' + line + b"\n")
  MetricWriter(epath.Path(tmp_path), 5).close()
  assert path.read_bytes() == b'{"step": 1}\n'
