"""What a person sees of a run, and that an interruption is never lost."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from thawline.terminal import TerminalListener


def test_an_interruption_that_a_library_swallowed_is_raised_by_the_next_progress() -> None:
    with TerminalListener(quiet=True) as listener:
        listener.begin("heads", 2)
        listener.advance()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            listener.advance()
        with pytest.raises(KeyboardInterrupt):
            listener.begin("final model")
        listener.end()  # what is cleaned up on the way out can still say so
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_is_left_alone() -> None:
    heard = []
    previous = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with TerminalListener(quiet=True) as listener:
            signal.raise_signal(signal.SIGINT)
            listener.advance()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert heard == [1]


def test_outside_the_main_thread_nothing_is_caught() -> None:
    found = []

    def enter() -> None:
        with TerminalListener(quiet=True) as listener:
            listener.begin("heads")
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
