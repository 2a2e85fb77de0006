"""The command line by itself: help, exit codes, and what it costs to start."""

import json
import os
import re
import subprocess
import sys

import pytest

from pixtide.schemas.errors import UsageError
from pixtide.streams.cli.index import _attributes

PIXTIDE = (sys.executable, "-m", "pixtide.streams.cli.main")
COMMANDS = (
    *("", "demo", "up", "publish", "delete", "search", "ingest", "query"),
    *("web", "doctor", "config", "completion"),
    *(
        "topics create",
        "topics dump",
        "topics load",
        "index list",
        "index create",
        "index status",
        "index verify",
    ),
    *("index promote", "index rollback", "index retire", "index compare", "reindex"),
    *("dlq list", "dlq show", "dlq retry"),
)


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIXTIDE_")} | settings
    return subprocess.run(
        [*PIXTIDE, *arguments], capture_output=True, text=True, check=False, env=env, timeout=60
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import pixtide.streams.cli.main; "
        "print([m for m in ('torch', 'weaviate', 'lancedb', 'faust', 'PIL', 'confluent_kafka', "
        "'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_search_loads_nothing_of_the_workers() -> None:
    heavy = ["torch", "open_clip", "sklearn", "PIL", "weaviate", "lancedb", "pyarrow", "faust"]
    code = (
        "import sys; import pixtide.streams.cli.main, pixtide.streams.terminal; "
        "import pixtide.streams.client.blocking; "
        "from pixtide.streams.settings import load_settings; "
        "from pixtide.streams.wiring.clients import search_client; "
        f"load_settings(); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["search", "a cat"], {}, "pixtide up"),
        (["search", "a cat", "-k", "0"], {}, "limit"),
        (["search", "a cat", "--after", "soon"], {}, "uploaded_after"),
        (["dlq", "retry"], {}, "--all"),
        (["dlq", "retry", "--all", "--code", "TOO_LARGE"], {}, "--all"),
        (["dlq", "list", "--code", "TOO_LARG"], {"PIXTIDE_KAFKA": "127.0.0.1:1"}, "no such code"),
        (["dlq", "list"], {}, "pixtide up"),
        (["search"], {}, "say what to look for"),
        (["config"], {"PIXTIDE_MODLE": "x"}, "did you mean PIXTIDE_MODEL"),
        (["publish", "no-such-folder"], {"PIXTIDE_KAFKA": "127.0.0.1:1"}, "no such file"),
        (["search", "caf\udce9"], {}, "\\udce9 is not UTF-8"),
        (["up"], {"PIXTIDE_HOME": "/dev/null/home"}, "PIXTIDE_HOME=/dev/null/home can't be used"),
        (["up"], {"PIXTIDE_HOME": "/" + "x" * 300}, "can't be used"),
        (["config"], {"PIXTIDE_HOME": "~no-such-user/home"}, "can't be used"),
    ],
)
def test_wrong_usage_is_2_and_says_what_to_do(
    arguments: list[str], settings: dict[str, str], said: str, tmp_path: object
) -> None:
    done = run(*arguments, **{"PIXTIDE_HOME": str(tmp_path), **settings})
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_out_of_reach_is_1_says_so_and_leads_to_the_doctor(tmp_path: object) -> None:
    done = run("topics", "create", PIXTIDE_HOME=str(tmp_path), PIXTIDE_KAFKA="127.0.0.1:1")
    assert done.returncode == 1
    assert "is the broker running" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith("pixtide doctor")


def test_the_doctor_looks_even_where_there_is_nothing(tmp_path: object) -> None:
    done = run("doctor", "--json", PIXTIDE_HOME=str(tmp_path))
    assert done.returncode == 1
    found = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert "pixtide up" in found["broker"]["mend"]
    assert found["index"]["seen"] == "bad" and found["model"]["seen"] == "unseen"
    assert found["disk"]["seen"] == "well"


def test_help_lists_every_command_once() -> None:
    from pixtide.streams.cli.main import cli

    listed = re.findall(r"^  ([a-z]+)  +[A-Z]", run("--help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(cli.commands)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_be_made_to_complete(shell: str) -> None:
    script = run("completion", shell)
    assert f"_PIXTIDE_COMPLETE={shell}_complete" in script.stdout
    words = {"bash": ("pixtide pub", "1"), "zsh": ("pixtide pub", "1"), "fish": ("pixtide", "pub")}
    line, current = words[shell]
    done = run(_PIXTIDE_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=current)
    assert "publish" in done.stdout and "search" not in done.stdout


def test_quiet_is_silent_but_for_what_goes_wrong() -> None:
    code = (
        "from pixtide.streams import terminal as console; console.hush(); console.say('news'); "
        "list(console.tracked([1, 2], 'work', 2)); console.complain('wrong'); console.line('asked')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("asked\n", "wrong\n")


@pytest.mark.parametrize("declared", ["takenAt:date", "camera.model:text", "price", "price:money"])
def test_an_attribute_that_can_not_be_is_named(declared: str) -> None:
    with pytest.raises(UsageError, match="--attribute"):
        _attributes((declared,))
