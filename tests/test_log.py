"""The package's log: what is printed, and what a program does about it."""

import logging

import pytest

from lightlm_jax.runtime import log


@pytest.fixture
def logger():
  """The package's logger as a new process has it."""
  found = logging.getLogger(log.NAME)
  before = found.handlers[:], found.level, found.propagate
  found.handlers[:], found.propagate = [], True
  found.setLevel(logging.NOTSET)
  yield found
  found.handlers[:], level, found.propagate = before
  found.setLevel(level)


def test_lines_are_plain_and_warnings_are_marked(logger, capsys):
  log.set_up()
  log.set_up()
  one = logging.getLogger("lightlm_jax.some.module")
  one.info("[1, 2] 50 % of %s " + "long " * 40)
  one.warning("the disk is slow")
  out = capsys.readouterr().out
  assert out == "[1, 2] 50 % of %s " + "long " * 40 + "\nwarning: the disk is slow\n"


def test_control_characters_of_ids_reach_no_terminal(logger, capsys):
  log.set_up()
  logging.getLogger("lightlm_jax").info("two\nlines of \x1b[31mitem\t\x07")
  assert capsys.readouterr().out == "two\nlines of \ufffd[31mitem\ufffd\ufffd\n"


def test_a_level_that_was_set_is_kept(logger, capsys):
  logger.setLevel(logging.ERROR)
  log.set_up()
  logging.getLogger("lightlm_jax.some.module").warning("not shown")
  assert capsys.readouterr().out == ""
  assert not log.shows_bars()


def test_a_program_with_its_own_handler_gets_the_lines_instead(logger, caplog, capsys):
  logger.addHandler(logging.NullHandler())
  logger.setLevel(logging.INFO)
  log.set_up()
  logging.getLogger("lightlm_jax.some.module").info("a line")
  assert capsys.readouterr().out == ""
  assert caplog.messages == ["a line"]


def test_other_processes_print_nothing(logger, capsys, monkeypatch):
  monkeypatch.setattr(log.processes, "is_first", lambda: False)
  log.set_up()
  logging.getLogger("lightlm_jax").info("a line")
  assert capsys.readouterr().out == ""
