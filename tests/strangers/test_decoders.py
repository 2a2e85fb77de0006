"""Decoders and strangers' pictures: what one may ask for, and what it gets that takes one over."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pixtide.encoders.pictures import decoder_process, samples
from pixtide.encoders.pictures.confinement import Fence
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Limits, Picture
from pixtide.encoders.port import Crop
from pixtide.schemas.errors import PoisonError, ReasonCode
from tests.support.decoder_pools import started
from tests.support.odd_decoder import odd
from tests.support.pictures import jpeg

MiB = 2**20
CROP = Crop(size=16, resize=16)
#: Small, so that what is too much is made quickly: a picture may take 40 MiB.
LIMITS = Limits(max_pixels=MiB, max_data_bytes=8 * MiB)
#: How many mutated pictures; the nightly run has more.
EXAMPLES = int(os.environ.get("PIXTIDE_TEST_STRANGERS", "100"))

_BOOT = "import importlib, sys; program, pipe, *sys.path[:] = sys.argv[1:];"
_MAIN = "importlib.import_module(program).main(int(pipe))"
NO_SECCOMP = (
    "from pixtide.encoders.pictures import confinement as c; c.filter_system_calls = lambda: False;"
)
NO_LANDLOCK = (
    "from pixtide.encoders.pictures import confinement as d;"
    "d._forbid_files_and_network = lambda: False;"
)
ORDINARY_USER = (
    "import os; import tests.support.odd_decoder;"
    "from pixtide.encoders.pictures import decoder_child as e; e.warm_up();"
    "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with started(LIMITS) as pool:
        yield pool


def code_of(work: Callable[[], object]) -> ReasonCode:
    with pytest.raises(PoisonError) as caught:
        work()
    return caught.value.code


# What one that is taken over can still do


PROBES = {
    "read": "/etc/passwd",
    "list": "/",
    "write": "{folder}/written",
    "remove": "{folder}/kept",
    "socket": "{port}",
    "local socket": "{name}",
    "fork": "",
    "exec": "",
    "spawn": "",
    "signal": "",
    "peek": "",
    "raise limits": "",
    "grow": "400",
}
#: What is left to a decoder where the kernel lacks fences. As root a process may have as many
#: processes as it likes; a user's own processes may be signalled.
LEFT = {
    "": set(),
    NO_LANDLOCK: set(),
    NO_SECCOMP: {"fork"},
    NO_SECCOMP + NO_LANDLOCK: {"remove", "fork", "exec", "signal"},
}


@pytest.mark.fault("a picture takes its decoder over")
@pytest.mark.parametrize("lacking", LEFT, ids=["nothing", "landlock", "seccomp", "both"])
@pytest.mark.parametrize("user", ["", ORDINARY_USER], ids=["same user", "nobody"])
def test_what_a_picture_that_takes_a_decoder_over_gains(
    lacking: str, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user and os.getuid() != 0:
        pytest.skip("only root can start it as another user")
    monkeypatch.setenv("PIXTIDE_KAFKA_PASSWORD", "s3cret")
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.support.odd_decoder")
    monkeypatch.setattr(decoder_process, "_BOOT", _BOOT + lacking + user + _MAIN)
    (tmp_path / "kept").touch()
    listening, local = socket.socket(), socket.socket(socket.AF_UNIX)
    with listening, local, started(LIMITS) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        local.bind(f"\0pixtide-{os.getpid()}")
        local.listen()
        places = {
            "folder": tmp_path,
            "port": listening.getsockname()[1],
            "name": f"pixtide-{os.getpid()}",
        }
        done = {
            name
            for name, argument in PROBES.items()
            if not tried(pool, f"{name}:{argument.format(**places)}").startswith("refused")
        }
        assert done <= left_to(lacking, pool), done
        assert not (tmp_path / "written").exists()
        assert (tmp_path / "kept").exists() or "remove" in done
        if not lacking:
            assert "PASSWORD" not in tried(pool, "environment:")
            assert pool.decode(jpeg(1), CROP).width == 48


def left_to(lacking: str, pool: DecoderPool) -> set[str]:
    """What may succeed, here and in that lack; of a kernel that has fewer fences, more."""
    fences = pool._children[0].fences
    left = set(LEFT[lacking])
    for fence, without in ((Fence.SECCOMP, NO_SECCOMP), (Fence.LANDLOCK, NO_LANDLOCK)):
        if not fences & fence:
            left |= LEFT[without]
    return left | (LEFT[NO_SECCOMP + NO_LANDLOCK] if not fences else set())


def tried(pool: DecoderPool, what: str) -> str:
    """What came of it; a process that died of it did nothing for the one who tried."""
    with pytest.raises(PoisonError) as caught:
        pool.decode(odd(what), CROP)
    if caught.value.code == ReasonCode.DECODER_CRASHED:
        return "refused: it died"
    return caught.value.message


def test_it_has_its_pipe_and_nothing_else_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.support.odd_decoder")
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with started(LIMITS) as pool:
            kinds = [
                str(file.readlink()).partition(":")[0]
                for file in Path(f"/proc/{pool._children[0].pid}/fd").iterdir()
            ]
    assert sorted(kinds) == ["/dev/null"] * 3 + ["socket"]


def test_one_that_computes_for_ever_is_ended_by_the_kernel_should_its_pool_not_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.support.odd_decoder")
    with started(LIMITS) as pool:
        limited = decoder_process.DecoderProcess._allow_processor
        monkeypatch.setattr(
            decoder_process.DecoderProcess, "_allow_processor", lambda self, _: limited(self, 0)
        )
        assert code_of(lambda: pool.decode(odd("spin:"), CROP)) == ReasonCode.DECODER_CRASHED


# Small files that ask for much


def tiff(*tags: tuple[int, int, int], body: bytes = b"\0" * 4000, big: bool = False) -> bytes:
    """Of tags (number, type, value), with a body at offset 8 or 16 that they may point to."""
    start, count, entry = (16, "<Q", "<HHQQ") if big else (8, "<H", "<HHII")
    head = b"II+\0\x08\0\0\0" if big else b"II*\0"
    at = struct.pack("<Q" if big else "<I", start + len(body))
    entries = b"".join(struct.pack(entry, tag, kind, 1, value) for tag, kind, value in tags)
    return head + at + body + struct.pack(count, len(tags)) + entries + b"\0" * 8


def one_tile(side: int, big: bool = False) -> bytes:
    start = 16 if big else 8
    return tiff(
        *((256, 4, 100), (257, 4, 100), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)),
        *((322, 4, side), (323, 4, side), (324, 4, start), (325, 4, 4000)),
        body=zlib.compress(b"\0" * 3_000_000).ljust(4000, b"\0"),
        big=big,
    )


def one_strip(samples: int, bits: int, planes: int = 1, compression: int = 8) -> bytes:
    return tiff(
        *((256, 4, 1000), (257, 4, 1000), (258, 3, bits), (259, 3, compression), (262, 3, 2)),
        *((273, 4, 8), (277, 3, samples), (278, 4, 2**32 - 1), (279, 4, 4000), (284, 3, planes)),
    )


def many_tags() -> bytes:
    """Each of 60,000 tags is the same 4 MB of the file."""
    size = 4_000_000
    tags = b"".join(struct.pack("<HHII", 1000 + n, 7, size, 8) for n in range(60_000))
    return b"II*\0" + struct.pack("<I", 8 + size) + b"\0" * size + struct.pack("<H", 60_000) + tags


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def webp_of_canvas(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    plain = saved(Image.new("RGB", (8, 8)), "WEBP")[12:]
    chunks = b"VP8X" + struct.pack("<II", 10, 0) + canvas + plain
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def gif_of_screen(screen: int, frame: int) -> bytes:
    data = bytearray(saved(Image.new("P", (8, 8)), "GIF"))
    data[6:10] = struct.pack("<HH", screen, screen)
    place = data.index(b",\0\0\0\0")
    data[place + 5 : place + 9] = struct.pack("<HH", frame, frame)
    return bytes(data)


def says_less(kind: str, side: int = 1100) -> bytes:
    """A file whose container says 64 × 64, and whose stream says more."""
    data = saved(Image.new("RGB", (side, side)), kind, quality=20, **_QUICK[kind])
    found = data.index(b"ispe") + 8
    return data[:found] + struct.pack(">II", 64, 64) + data[found + 8 :]


_QUICK: dict[str, dict[str, object]] = {"AVIF": {"speed": 10}, "HEIF": {}}


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


BOMBS: dict[str, tuple[Callable[[], bytes], set[ReasonCode | None]]] = {
    "a tile of 46,000²": (lambda: one_tile(46_000), {ReasonCode.PIXEL_LIMIT}),
    "a tile of 2³¹": (lambda: one_tile(2**31 - 16), {ReasonCode.PIXEL_LIMIT}),
    "a tile of BigTIFF": (lambda: one_tile(20_000, big=True), {ReasonCode.PIXEL_LIMIT}),
    "a strip of 60 samples": (
        lambda: one_strip(60, 16),
        {ReasonCode.PIXEL_LIMIT, ReasonCode.TRUNCATED_IMAGE},
    ),
    "planes of 64 bits": (
        lambda: one_strip(3, 64, planes=2),
        {ReasonCode.PIXEL_LIMIT, ReasonCode.TRUNCATED_IMAGE},
    ),
    "tags that share bytes": (
        many_tags,
        {ReasonCode.METADATA_LIMIT, ReasonCode.TRUNCATED_IMAGE},
    ),
    "a canvas of WebP": (lambda: webp_of_canvas(16_000, 16_000), {ReasonCode.PIXEL_LIMIT}),
    "a screen of GIF": (lambda: gif_of_screen(60_000, 8), {ReasonCode.PIXEL_LIMIT}),
    "a frame of GIF": (lambda: gif_of_screen(8, 60_000), {ReasonCode.PIXEL_LIMIT}),
    "a stream of HEIC": (
        lambda: says_less("HEIF"),
        {ReasonCode.PIXEL_LIMIT, ReasonCode.TRUNCATED_IMAGE},
    ),
    "a stream of AVIF": (
        lambda: says_less("AVIF"),
        {None, ReasonCode.PIXEL_LIMIT, ReasonCode.TRUNCATED_IMAGE},
    ),
    "a comment of GIF": (
        lambda: saved(Image.new("L", (64, 64)), "GIF", comment=b"a" * 66_000),
        {None},
    ),
    "notes of JPEG": (
        lambda: saved(Image.new("RGB", (64, 64)), "JPEG", xmp=b"x" * 60_000),
        {None},
    ),
    "notes of PNG": (
        lambda: saved(Image.new("RGB", (64, 64)), "PNG", xmp=b"x" * 99_000, exif=b"y" * 99_000),
        {None},
    ),
    "deep grey": (
        lambda: saved(Image.new("I;16", (1024, 1024)), "PNG"),
        {None},
    ),
    "scans": (lambda: scans(100), {ReasonCode.PIXEL_LIMIT}),
}


@pytest.mark.fault("a small file asks for much memory")
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_asks_for_much_is_one_poisoned_picture(
    name: str, pool: DecoderPool
) -> None:
    make, codes = BOMBS[name]
    data = make()
    child = pool._children[0]
    pool.decode(jpeg(1), CROP)
    pid, before = child.pid, resident(child.pid)
    for ask in (lambda: pool.decode(data, CROP), lambda: pool.thumbnail(data, 400)):
        try:
            ask()
        except PoisonError as error:
            assert error.code in codes, error
        else:
            assert None in codes
    assert pool.decode(jpeg(1), CROP).width == 48
    assert child.pid == pid, "it cost a process"
    most = LIMITS.max_memory + 4 * LIMITS.max_data_bytes + 32 * MiB
    assert resident(pid, "VmHWM") - before <= most


def resident(pid: int, what: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def test_deep_grey_takes_no_more_memory_than_it_says() -> None:
    """16 bits a pixel were 16 bytes while they were converted."""
    data = saved(Image.new("I;16", (1024, 1000)), "PNG")
    with started(Limits(max_pixels=MiB)) as fresh:
        pid = fresh._children[0].pid
        before = resident(pid)
        fresh.decode(data, CROP)
        assert resident(pid, "VmHWM") - before < LIMITS.max_memory


# Pictures that chance has changed


_PICTURES = tuple(samples.pictures())
_BYTES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xda", b"\0\0\0\1"]),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture of any kind with some of its bytes replaced, left out, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(_PICTURES)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["replace", "insert", "repeat", "cut"])):
            case "replace":
                new = draw(_BYTES)
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(_BYTES)
            case "repeat":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 9))
            case _:
                del data[at : at + length]
    return bytes(data)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=mutated())
def test_a_changed_picture_is_a_picture_or_poison_and_its_decoder_lives_on(
    pool: DecoderPool, data: bytes
) -> None:
    child = pool._children[0]
    pid = child.pid
    for ask in (lambda: pool.decode(data, CROP), lambda: pool.thumbnail(data, 24)):
        try:
            answer = ask()
        except PoisonError as error:
            assert error.code is not ReasonCode.DECODER_CRASHED, error
        else:
            assert isinstance(answer, Picture | bytes)
    assert child.pid == pid
