"""A hang or a crash costs one picture; its neighbours and the pool live on."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from encoders import decoding
from encoders.decoding import DecoderPool
from encoders.images import Limits, Picture, decode, render
from encoders.port import Crop
from encoders.reserve import Reserve
from schemas.errors import FatalError, PoisonError, ReasonCode, TransientError

CROP = Crop(size=16, resize=16)
LIMITS = Limits()
HANG, DIE, FAIL = (64, 1), (64, 2), (64, 3)  # the sizes of pictures that misbehave


def picture(width: int = 32, height: int = 32) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((width, height), 90).save(data, "PNG")
    return data.getvalue()


def misbehave(image: Image.Image, crop: Crop) -> Picture:
    """Stands in for `render`, in the child."""
    if image.size == HANG:
        signal.pause()
    if image.size == DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.size == FAIL:
        raise NotImplementedError("an error that nobody thought of")
    return render(image, crop)


@contextmanager
def started(
    timeout_s: float = 30, workers: int = 1, limits: Limits = LIMITS
) -> Iterator[DecoderPool]:
    pool = DecoderPool(workers, timeout_s, limits)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with started(workers=2) as pool:
        yield pool


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "render", misbehave)


def code_of(work: Callable[[], object]) -> ReasonCode:
    with pytest.raises(PoisonError) as caught:
        work()
    return caught.value.code


def children(pool: DecoderPool) -> set[int]:
    return {child._process.pid or 0 for child in pool._children}


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


@pytest.mark.usefixtures("faulty")
def test_a_hang_is_killed_and_the_next_picture_decoded() -> None:
    with started(timeout_s=3) as pool:
        before = children(pool)
        assert code_of(lambda: pool.decode(picture(*HANG), CROP)) == ReasonCode.DECODE_TIMEOUT
        assert pool.decode(picture(), CROP).width == 32
        assert not before & children(pool)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("size", [DIE, FAIL])
def test_a_crash_costs_one_picture(size: tuple[int, int]) -> None:
    with started(workers=2) as pool, ThreadPoolExecutor(4) as threads:
        work = [threads.submit(pool.decode, picture(), CROP) for _ in range(8)]
        bad = threads.submit(pool.decode, picture(*size), CROP)
        work += [threads.submit(pool.decode, picture(), CROP) for _ in range(8)]
        assert code_of(bad.result) == ReasonCode.DECODER_CRASHED
        assert all(task.result().width == 32 for task in work)


def test_a_child_killed_while_idle_costs_nothing() -> None:
    with started() as pool:
        for child in pool._children:
            child._process.kill()
            child._process.join()
        assert pool.decode(picture(), CROP).width == 32


def test_a_child_that_cannot_be_replaced_now_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    with started() as pool:
        (child,) = pool._children
        child.kill()
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
            with pytest.raises(TransientError, match="no decoder process can be started"):
                pool.decode(picture(), CROP)
        assert pool.decode(picture(), CROP).width == 32


@pytest.mark.usefixtures("faulty")
def test_signals_to_all_processes_do_not_blame_the_picture() -> None:
    with started(timeout_s=3) as pool, ThreadPoolExecutor(1) as threads:
        busy = threads.submit(pool.decode, picture(*HANG), CROP)
        for pid in children(pool):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert code_of(busy.result) == ReasonCode.DECODE_TIMEOUT


@pytest.mark.usefixtures("faulty")
def test_close_ends_those_who_wait() -> None:
    with started() as pool, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.decode, picture(*HANG), CROP) for _ in range(3)]
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
import multiprocessing, os, signal, sys
from encoders.decoding import DecoderPool
from encoders.images import Limits
if __name__ == "__main__":
    pool = DecoderPool(1, 9, Limits())
    pool.start()
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit()"])
def test_children_end_with_their_parent(end: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("parent") / "parent.py"
    script.write_text(PARENT.format(end=end))
    # its output ends only when the last process that inherited it has ended
    output = subprocess.run([sys.executable, script], capture_output=True, timeout=120, check=False)
    assert int(output.stdout) > 0
    assert output.stderr == b""
