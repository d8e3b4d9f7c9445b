"""What an epoch leaves is done beside the next one."""

import threading

import pytest

from dcgan.common.console import UserError
from dcgan.training.beside import Beside


def test_a_job_is_done_beside_and_waited_for(capsys):
    go_on, done = threading.Event(), []

    def job():
        go_on.wait(60)
        done.append(1)

    with Beside() as beside:
        beside.start(job)
        assert not done  # it cannot end before it may go on
        go_on.set()
        beside.wait()
        assert done == [1]
        beside.start(lambda: done.append(2))
        beside.start(lambda: done.append(3))
    assert done == [1, 2, 3]
    assert not capsys.readouterr().out  # none of them took long


def test_a_wait_that_takes_long_is_told(monkeypatch):
    go_on, told = threading.Event(), []

    def tell(line):
        told.append(line)
        go_on.set()

    monkeypatch.setattr("dcgan.training.beside.SOON", 0)
    monkeypatch.setattr("dcgan.training.beside.tell", tell)
    with Beside() as beside:
        beside.start(lambda: go_on.wait(60))
    assert told == ["Waiting   for an epoch to be scored and saved."]


def refused():
    raise UserError("The disk is full.")


def fail_beside_a_failing_job():
    with Beside() as beside:
        beside.start(refused)
        raise ZeroDivisionError


def test_what_a_job_raises_ends_the_training():
    with Beside() as beside:
        beside.start(refused)
        with pytest.raises(UserError, match="full"):
            beside.wait()
        beside.wait()
    with pytest.raises(UserError, match="full"), Beside() as beside:
        beside.start(refused)
    with pytest.raises(ZeroDivisionError):
        fail_beside_a_failing_job()


def test_where_nothing_may_be_done_beside_it_is_done_at_once():
    with Beside(possible=False) as beside, pytest.raises(UserError, match="full"):
        beside.start(refused)
