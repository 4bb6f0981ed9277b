"""What a run says of itself while it goes: metrics.jsonl, and the bar."""

from etils import epath
import pytest
import rich.console

from lightlm_jax.training import metric_writer as journal


def write_journal(folder, lines):
  (folder / "metrics.jsonl").write_text(lines)


def test_journal_drops_what_lies_behind_the_resumed_step(tmp_path):
  kept = '{"step": 10, "loss": 2.0}\n{"step": 20, "loss": 1.5}\n'
  write_journal(tmp_path, kept + '{"step": 30, "loss": 1.0}\n{"step": 40, "lo')
  book = journal.Journal(epath.Path(tmp_path), 20)
  book.write(30, {"loss": 0.9, "validation": {"hr@5": 0.5}})
  book.close()
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == kept + '{"step": 30, "loss": 0.9, "validation": {"hr@5": 0.5}}\n'


@pytest.mark.parametrize("torn", ['{"step": 1', "", "null", '"', "[]", '{"loss": 1}'])
def test_journal_drops_a_torn_line(tmp_path, torn):
  whole = '{"step": 1, "loss": 2.0}\n'
  write_journal(tmp_path, whole + torn)
  journal.Journal(epath.Path(tmp_path), 5).close()
  assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_journal_of_a_fresh_start_is_empty(tmp_path):
  write_journal(tmp_path, '{"step": 1, "loss": 2.0}\n')
  journal.Journal(epath.Path(tmp_path), 0).close()
  assert (tmp_path / "metrics.jsonl").read_text() == ""


def bar_output(capsys, console=None, **options):
  bar = journal.Bar(console or rich.console.Console(), **options)
  for step in range(options["start"] + 1, options["total"] + 1):
    bar.advance(step)
  bar.log(options["total"], 1.23456, 98765.4)
  bar.say("a word [not markup]")
  bar.close()
  return capsys.readouterr().out


def test_bar_writes_lines_where_there_is_no_terminal(capsys):
  out = bar_output(capsys, start=5, total=10)
  first, second = out.splitlines()
  assert first == "step 10/10  loss 1.235  98,765 examples/s  0:00 left"
  assert second == "a word [not markup]"


def test_bar_is_drawn_on_a_terminal(capsys):
  console = rich.console.Console(force_terminal=True, width=100)
  out = bar_output(capsys, console, start=5, total=10)
  assert "\x1b[" in out
  assert "10/10" in out
  assert "loss 1.235" in out


def test_lines_at_an_address_are_written_anew(tmp_path):
  """Where "a" would be taken for "w", and what was there before be lost."""
  path = epath.Path(tmp_path / "metrics.jsonl")
  path.write_text("before\n")
  lines = journal._Bucket(path)
  lines.write("now\n")
  lines.flush()
  lines.close()
  assert path.read_text() == "before\nnow\n"
