"""`pixtide up`: it leaves nothing behind, survives being killed, and keeps to its home."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixtide.schemas import topics
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.embedded_broker import Retention
from tests.servers.runners import free_ports
from tests.support.deployments import Embedded
from tests.support.models import tiny_clip
from tests.support.pictures import jpeg


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Embedded]:
    made = Embedded(tmp_path / "home")
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.stop_process(name)


def children(stack: Embedded) -> list[int]:
    pids: list[int] = json.loads((stack.home / "stack.json").read_text())["children"]
    assert len(pids) == 4
    return pids


def running(pid: int, stack: Embedded) -> bool:
    try:
        return str(stack.home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def publish_one(stack: Embedded, name: str) -> None:
    (stack.folder / name).write_bytes(jpeg(len(name)))
    summary = stack.publish(str(stack.folder / name), "--prefix", "p")
    assert summary["outcomes"] == {"indexed": 1}


def test_ctrl_c_ends_everything_and_the_next_start_finds_everything(stack: Embedded) -> None:
    stack.start()
    publish_one(stack, "a.jpg")
    stack.run("publish", "--inline", "--prefix", "inline", str(stack.folder / "a.jpg"), "--wait")
    inside = [path for path in stack.home.rglob("*") if not path.is_symlink()]
    assert not [path for path in inside if path.stat().st_mode & 0o077]  # not for other users
    pids = children(stack)
    process = stack.processes.pop("up")
    process.send_signal(signal.SIGINT)
    while "stopping" not in stack.log("up"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)  # impatient
    assert process.wait(60) == 0
    assert not any(running(pid, stack) for pid in pids)
    assert not (stack.home / "stack.json").exists()
    stack.run("search", "anything", code=2)  # nothing runs: the command says how to start it
    stack.start()
    assert {r["image_id"] for r in stack.search("anything")} == {"p/a.jpg", "inline/a.jpg"}


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_everything(stack: Embedded) -> None:
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [*stack.program, "up"], env=stack.env, stdout=its_end, stderr=its_end, cwd=stack.folder
    )
    os.close(its_end)
    said = b""
    while b"Ctrl-C stops everything" not in said:
        said += os.read(terminal, 4096)
    pids = children(stack)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.wait(60)
    assert not any(running(pid, stack) for pid in pids)
    assert not (stack.home / "stack.json").exists()


@pytest.mark.slow
def test_the_page_is_at_the_port_that_was_asked_for_or_nowhere(stack: Embedded) -> None:
    (stack.home / "web.port").write_text(str(free_ports(1)[0]))  # that of an earlier start
    [asked] = free_ports(1)
    stack.env["PIXTIDE_WEB_PORT"] = str(asked)
    with socket.create_server(("127.0.0.1", asked)):
        stack.run("up", code=2)
    stack.start()
    assert json.loads((stack.home / "stack.json").read_text())["web"].endswith(f":{asked}")


@pytest.mark.slow
def test_what_a_killed_stack_left_over_is_ended_by_the_next(stack: Embedded) -> None:
    stack.start()
    publish_one(stack, "a.jpg")
    pids = children(stack)
    stack.kill("up")
    assert all(running(pid, stack) for pid in pids)
    stack.start()
    assert not any(running(pid, stack) for pid in pids)
    publish_one(stack, "another.jpg")
    assert {r["image_id"] for r in stack.search("anything")} == {"p/a.jpg", "p/another.jpg"}


@pytest.mark.slow
def test_one_stack_a_home_and_two_homes_side_by_side(stack: Embedded, tmp_path: Path) -> None:
    stack.start()
    stack.run("up", code=2)
    publish_one(stack, "a.jpg")
    (tmp_path / "other").mkdir()
    other = Embedded(tmp_path / "other" / "home")
    try:
        other.start()
        assert other.search("anything") == []
        assert len(stack.search("anything")) == 1
    finally:
        other.stop()


@pytest.mark.slow
def test_replies_that_nobody_waits_for_are_forgotten(stack: Embedded) -> None:
    stack.start()
    publish_one(stack, "a.jpg")
    stack.search("anything")
    client = kafka_clients.admin(stack.settings().kafka_connection())
    clock = [0.0]
    retention = Retention(client, {topics.REPLIES: 60.0}, clock=lambda: clock[0])
    retention.enforce()
    before = kafka_offsets.ends(client, topics.REPLIES, range(6))
    assert sum(before.values()) == 1
    stack.search("something else")
    for clock[0] in (5.0, 15.0, 59.0):
        retention.enforce()
    assert sum(kafka_offsets.beginnings(client, topics.REPLIES, range(6)).values()) == 0
    clock[0] = 70.0
    retention.enforce()
    assert kafka_offsets.beginnings(client, topics.REPLIES, range(6)) == before
    assert sum(kafka_offsets.ends(client, topics.REPLIES, range(6)).values()) == 2
    assert stack.search("something else")


@pytest.mark.slow
def test_an_index_that_no_model_fits_any_more_is_made_anew(stack: Embedded) -> None:
    model = stack.folder / "model"
    stack.env["PIXTIDE_MODEL"] = name = tiny_clip(model)
    stack.start()
    publish_one(stack, "a.jpg")
    stack.stop()
    shutil.rmtree(model)
    tiny_clip(model, seed=2)  # as after an upgrade that changed the starter model
    stack.spawn("up", "up")
    what_to_do = f"here build the index anew from the log: pixtide reindex --model {name}"
    while what_to_do not in stack.log("up") or stack.log("up").count("ready: Kafka") < 2:
        assert stack.processes["up"].poll() is None, stack.log("up")
        time.sleep(0.1)
    ready = stack.home / "run" / "query.ready"
    assert not ready.exists()
    stack.run("reindex", "--model", name, "--yes")
    while not ready.exists():
        assert stack.processes["up"].poll() is None, stack.log("up")
        time.sleep(0.1)
    assert [found["image_id"] for found in stack.search("anything")] == ["p/a.jpg"]


def test_a_part_that_ends_by_itself_ends_the_stack_with_an_error(stack: Embedded) -> None:
    stack.start()
    pids = children(stack)
    os.kill(pids[1], signal.SIGKILL)
    process = stack.processes.pop("up")
    assert process.wait(60) == 1
    assert "ingest-v1 ended with code -9" in stack.log("up")
    assert not any(running(pid, stack) for pid in pids)
