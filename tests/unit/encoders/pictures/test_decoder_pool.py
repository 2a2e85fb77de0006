"""A hang, a crash or a lie costs one picture; its neighbours and the pool live on."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixtide.encoders.pictures import decoder_process
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Limits, decode
from pixtide.encoders.port import Crop
from pixtide.encoders.reserve import Reserve
from pixtide.schemas.errors import FatalError, PoisonError, ReasonCode, TransientError
from tests.support.decoder_pools import started
from tests.support.odd_decoder import LIES, odd

CROP = Crop(size=16, resize=16)
LIMITS = Limits()


def picture(width: int = 32, height: int = 32) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((width, height), 90).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with started(workers=2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def odd_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are started from now on do as a "picture" of `odd` says."""
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.support.odd_decoder")


def code_of(work: Callable[[], object]) -> ReasonCode:
    with pytest.raises(PoisonError) as caught:
        work()
    return caught.value.code


def children(pool: DecoderPool) -> set[int]:
    return {child.pid for child in pool._children}


def test_decodes_as_in_this_process(pool: DecoderPool) -> None:
    data = picture()
    ours, theirs = pool.decode(data, CROP), decode(data, CROP, LIMITS)
    assert (ours.width, ours.height, ours.format) == (theirs.width, theirs.height, theirs.format)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert Image.open(io.BytesIO(pool.thumbnail(data, 8))).size == (8, 8)


def test_children_are_up_when_start_returns_and_stay(pool: DecoderPool) -> None:
    before = children(pool)
    with ThreadPoolExecutor(8) as threads:
        pictures = list(threads.map(lambda _: pool.decode(picture(), CROP), range(40)))
    assert len(pictures) == 40
    assert children(pool) == before


def test_poison_crosses_the_process_boundary(pool: DecoderPool) -> None:
    before = children(pool)
    assert code_of(lambda: pool.decode(b"", CROP)) == ReasonCode.EMPTY_IMAGE
    assert code_of(lambda: pool.decode(picture()[:90], CROP)) == ReasonCode.TRUNCATED_IMAGE
    assert children(pool) == before


def test_the_limits_are_the_pools() -> None:
    with started(limits=Limits(max_pixels=99)) as pool:
        assert code_of(lambda: pool.decode(picture(10, 10), CROP)) == ReasonCode.PIXEL_LIMIT


def test_a_hang_is_killed_and_the_next_picture_decoded() -> None:
    with started(timeout_s=3) as pool:
        before = children(pool)
        assert code_of(lambda: pool.decode(odd("late"), CROP)) == ReasonCode.DECODE_TIMEOUT
        assert pool.decode(picture(), CROP).width == 32
        assert not before & children(pool)


@pytest.mark.parametrize("what", ["die", "crash"])
def test_a_crash_costs_one_picture(what: str) -> None:
    with started(workers=2) as pool, ThreadPoolExecutor(4) as threads:
        work = [threads.submit(pool.decode, picture(), CROP) for _ in range(8)]
        bad = threads.submit(pool.decode, odd(what), CROP)
        work += [threads.submit(pool.decode, picture(), CROP) for _ in range(8)]
        assert code_of(bad.result) == ReasonCode.DECODER_CRASHED
        assert all(task.result().width == 32 for task in work)


def test_a_child_killed_while_idle_costs_nothing() -> None:
    with started() as pool:
        for child in pool._children:
            child.kill()
        assert pool.decode(picture(), CROP).width == 32


def test_a_child_that_cannot_be_replaced_now_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    with started() as pool:
        (child,) = pool._children
        child.kill()
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            with pytest.raises(TransientError, match="no decoder process can be started"):
                pool.decode(picture(), CROP)
        assert pool.decode(picture(), CROP).width == 32


def test_signals_to_all_processes_do_not_blame_the_picture() -> None:
    with started(timeout_s=3) as pool, ThreadPoolExecutor(1) as threads:
        busy = threads.submit(pool.decode, odd("late"), CROP)
        for pid in children(pool):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert code_of(busy.result) == ReasonCode.DECODE_TIMEOUT


def test_close_ends_those_who_wait() -> None:
    with started() as pool, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.decode, odd("late"), CROP) for _ in range(3)]
        pool.close()
        for task in waiting:
            with pytest.raises(FatalError):
                task.result()
        with pytest.raises(FatalError):
            pool.decode(picture(), CROP)


def test_pixels_in_flight_are_bounded_and_large_pictures_are_not_starved() -> None:
    reserve = Reserve(10)
    order: list[str] = []

    def hold(name: str, pixels: int) -> None:
        with reserve.of(pixels):
            order.append(name)

    with reserve.of(6):
        large = threading.Thread(target=hold, args=("large", 8))
        large.start()
        while not reserve._turn.locked():  # until the large one waits at the front
            pass
        small = threading.Thread(target=hold, args=("small", 1))
        small.start()
        assert order == []
    large.join()
    small.join()
    assert order == ["large", "small"]
    assert reserve.taken == 0


PARENT = """
import os, signal, sys
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Limits
if __name__ == "__main__":
    pool = DecoderPool(1, 9, Limits())
    pool.start()
    print(*(child.pid for child in pool._children), flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit()"])
def test_children_end_with_their_parent(end: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("parent") / "parent.py"
    script.write_text(PARENT.format(end=end))
    output = subprocess.run([sys.executable, script], capture_output=True, timeout=120, check=False)
    assert output.stderr == b""
    pid = int(output.stdout)
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.05)


def test_an_error_that_nobody_thought_of_costs_one_picture_and_no_process() -> None:
    with started() as pool:
        before = children(pool)
        assert code_of(lambda: pool.decode(odd("fail"), CROP)) == ReasonCode.DECODER_CRASHED
        assert pool.decode(picture(), CROP).width == 32
        assert children(pool) == before


# A decoder that a picture has taken over


def test_no_lie_is_believed_and_each_costs_one_picture_and_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with started() as pool:
        for what in LIES:
            before = children(pool)
            with pytest.raises(PoisonError, match=r"DECODER_CRASHED.*nonsense"):
                pool.decode(odd(what), CROP)
            assert pool.decode(picture(), CROP).width == 32
            assert not before & children(pool), what
            assert list(tmp_path.iterdir()) == [], "this process ran what it was sent"


def test_a_thumbnail_is_a_jpeg() -> None:
    with started() as pool:
        assert code_of(lambda: pool.thumbnail(odd("no jpeg"), 8)) == ReasonCode.DECODER_CRASHED


def test_nobody_gets_an_answer_that_was_sent_before_the_question() -> None:
    with started() as pool:
        before = children(pool)
        assert pool.decode(odd("twice"), CROP).width == 48
        assert pool.decode(picture(), CROP).width == 32
        assert not before & children(pool)


def test_a_message_has_nothing_that_steers_a_terminal() -> None:
    with started() as pool, pytest.raises(PoisonError) as caught:
        pool.decode(odd("forged"), CROP)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) == 9


# What is bounded


def test_a_file_that_is_too_large_is_not_sent() -> None:
    with started(limits=Limits(max_data_bytes=1000)) as pool:
        assert code_of(lambda: pool.decode(b"x" * 1001, CROP)) == ReasonCode.TOO_LARGE


def test_a_caller_waits_for_a_decoder_no_longer_than_it_says() -> None:
    with started(timeout_s=60) as pool, ThreadPoolExecutor(1) as threads:
        busy = threads.submit(pool.decode, odd("late"), CROP)
        while pool._idle.qsize():
            time.sleep(0.01)
        with pytest.raises(TransientError, match="no decoder was free"):
            pool.decode(picture(), CROP, timeout_s=0.1)
        assert not busy.done()
        pool.close()
        with pytest.raises(FatalError):
            busy.result()


def test_a_caller_whose_time_ends_while_decoding_does_not_blame_the_picture() -> None:
    with started(timeout_s=60) as pool:
        with pytest.raises(TransientError, match="no decoder was free"):
            pool.decode(odd("late"), CROP, timeout_s=0.5)
        assert pool.decode(picture(), CROP).width == 32


def test_a_caller_waits_for_memory_no_longer_than_it_says() -> None:
    reserve = Reserve(10)
    with reserve.of(6):
        assert not reserve.take(5, timeout_s=0.05)
        assert reserve.take(4, timeout_s=0.05)
        reserve.give_back(4)
    assert reserve.take(10, timeout_s=0)
