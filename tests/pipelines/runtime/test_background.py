import _thread
import threading

import pytest

from pipelines.runtime.background import BackgroundCall


def test_the_result_or_the_error_of_the_call_comes_from_the_wait() -> None:
    assert BackgroundCall(lambda: 3).wait() == 3
    failing = BackgroundCall(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.wait()


def test_an_interrupted_wait_can_be_resumed() -> None:
    waiting, interrupted = threading.Event(), threading.Event()

    def work() -> int:
        waiting.wait(30)
        _thread.interrupt_main()
        interrupted.wait(30)
        return 5

    def wait() -> int:
        waiting.set()
        return call.wait()

    call = BackgroundCall(work)
    with pytest.raises(KeyboardInterrupt):
        wait()
    interrupted.set()
    assert call.wait() == 5
