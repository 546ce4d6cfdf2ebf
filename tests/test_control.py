"""Control and Board: exact steps, calls on the training thread, nothing lost, nobody blocked."""

from __future__ import annotations

import threading

import pytest

from kdlab.training.control import Control
from kdlab.training.events import Board


class Loop:
    """A stand-in for a trainer: counts its steps on a thread of its own."""

    def __init__(self, control: Control) -> None:
        self.control, self.steps, self.reached = control, 0, threading.Condition()
        control.open()
        self.thread = threading.Thread(target=self.run, name="loop", daemon=True)

    def start(self) -> Loop:
        self.thread.start()
        return self

    def run(self) -> None:
        while self.control.tick():
            with self.reached:
                self.steps += 1
                self.reached.notify_all()
        self.control.close()

    def wait_for(self, steps: int) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: self.steps >= steps, timeout=5)


@pytest.fixture
def control():
    control = Control()
    yield control
    control.stop()


def test_single_steps_are_exact(control):
    control.pause()
    loop = Loop(control).start()
    control.step(3)
    assert loop.wait_for(3)
    control.step(2)
    assert loop.wait_for(5)
    assert control.call(lambda: loop.steps).result(5) == 5  # still holding: no step came after


def test_pause_holds_and_play_goes_on(control):
    loop = Loop(control).start()
    assert loop.wait_for(10)
    control.pause()
    held = control.call(lambda: loop.steps).result(5)
    assert control.call(lambda: loop.steps).result(5) == held
    control.play()
    assert loop.wait_for(held + 10)


def test_calls_run_on_the_training_thread_in_order_even_while_paused(control):
    control.pause()
    Loop(control).start()
    names, order = [], []
    futures = [
        control.call(lambda i=i: (names.append(threading.current_thread().name), order.append(i)))
        for i in range(9)
    ]
    for future in futures:
        future.result(5)
    assert set(names) == {"loop"} and order == list(range(9))


def test_error_of_a_call_goes_to_its_caller_and_training_goes_on(control):
    loop = Loop(control).start()
    with pytest.raises(ZeroDivisionError):
        control.call(lambda: 1 / 0).result(5)
    assert loop.wait_for(loop.steps + 3)


def test_stop_ends_the_loop_and_late_calls_run_at_once(control):
    loop = Loop(control).start()
    loop.wait_for(1)
    control.stop()
    assert control.finished.wait(5)
    assert control.call(threading.current_thread).result(0) is threading.current_thread()


def test_calls_queued_at_the_end_are_not_lost():
    control = Control()
    control.open()
    futures = [control.call(lambda i=i: i) for i in range(3)]
    control.close()
    assert [f.result(0) for f in futures] == [0, 1, 2]


def test_stop_while_paused():
    control = Control()
    control.pause()
    Loop(control).start()
    control.stop()
    assert control.finished.wait(5)


def test_board_keeps_the_latest_and_each_subscriber_sees_every_key():
    board = Board()
    early = board.subscribe()
    for step in range(1000):
        board.post(step=step)
    board.post(state="training")
    assert early.take(0) == {"step": 999, "state": "training"}
    assert early.take(0) == {}
    board.post(step=1000)
    assert early.take(0) == {"step": 1000}
    assert board.subscribe().take(0) == {"step": 1000, "state": "training"}


def test_take_waits_for_a_post():
    board = Board()
    subscription = board.subscribe()
    threading.Timer(0.05, lambda: board.post(a=1)).start()
    assert subscription.take(5) == {"a": 1}
