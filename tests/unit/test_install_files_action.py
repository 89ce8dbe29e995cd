"""The control node's half of install_files: what it refuses, and what it sends."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.plugin_docs import read_docstring
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.template import Templar, trust_as_template

from plugins import standing
from plugins.action.install_files import REQUIRED, SPECIFICATION, ActionModule, validated
from plugins.callback import standing as standing_callback

MODULE = Path(__file__).parents[2] / "plugins/modules/install_files.py"
CONFIG = {"dest": "/etc/toy.conf", "content": "x"}
SECRETS = [(DEFAULT_VAULT_ID_MATCH, VaultSecret(b"passphrase"))]


class Recorded(ActionModule):
    """The action, with a host that accepts everything."""

    sent: dict

    def _execute_module(self, module_name=None, module_args=None, **_):
        self.sent = module_args
        return {"changed": True, "invocation": {"module_args": module_args}}


def action(room, arguments, variables=None):
    """Return an action as a task of a role in the directory `room` has it."""
    loader = DataLoader()
    loader.set_basedir(str(room))
    loader.set_vault_secrets(SECRETS)
    role = SimpleNamespace(get_name=lambda: "some.collection/toy role")
    task = SimpleNamespace(
        args=arguments, action="install_files", async_val=0, check_mode=False, _role=role,
        name="Install the toy", get_search_path=lambda: [str(room)],
    )  # fmt: skip
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
    templar = Templar(loader=loader, variables=variables or {})
    return Recorded(task, connection, None, loader, templar)


def sent(room, *files, variables=None):
    """Return the files that reach the host."""
    task = action(room, {"files": list(files)}, variables)
    task.run(task_vars={"ansible_search_path": [str(room)], **(variables or {})})
    return json.loads(zlib.decompress(base64.b64decode(task.sent["payload"])))["files"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file": []}, "file: unknown; install_files takes files, directories, checks, commands, services, confirm"),
        ({"files": "x"}, "files: got 'x', want a list"),
        ({"files": ["x"]}, r"files\[0\]: got 'x', want a mapping with dest, template, "),
        ({"files": [{"content": "x"}]}, r"files\[0\]: dest: missing, want an absolute, plain path"),
        ({"files": [{**CONFIG, "owned": "x"}]}, r"files\[0\] \(/etc/toy.conf\): owned: unknown; known are dest, "),
        ({"files": [CONFIG, {"dest": "/a"}]}, r"files\[1\] \(/a\): got none, want exactly one of template, content"),
        ({"files": [{**CONFIG, "src": "x"}]}, r"\(/etc/toy.conf\): got content and src, want exactly one of template"),
        ({"files": [{**CONFIG, "dest": "etc/toy.conf"}]}, "dest: got 'etc/toy.conf', want an absolute, plain path"),
        ({"files": [{**CONFIG, "dest": "/etc/../toy"}]}, "dest: got '/etc/../toy', want an absolute, plain path"),
        ({"files": [{**CONFIG, "dest": "/etc/"}]}, "dest: got '/etc/', want an absolute, plain path"),
        ({"files": [{**CONFIG, "content": {"password": "hunter2"}}]}, "content: got a dict, want text"),
        ({"files": [{**CONFIG, "mode": 0o640}]}, 'mode: got 416, want a quoted octal mode such as "0640"'),
        ({"files": [{**CONFIG, "mode": "u=rw"}]}, "mode: got 'u=rw', want a quoted octal mode"),
        ({"files": [{**CONFIG, "state": "gone"}]}, "state: got 'gone', want one of present, absent"),
        ({"files": [{**CONFIG, "secret": "yes"}]}, "secret: got 'yes', want true or false"),
        ({"files": [CONFIG, CONFIG]}, "path /etc/toy.conf: given twice"),
        ({"files": [CONFIG], "directories": [{"path": "/etc/toy.conf"}]}, "path /etc/toy.conf: given twice"),
        ({"checks": [{"name": "x", "command": "nft -c", "paths": []}]}, "command: got 'nft -c', want a list: the prog"),
        ({"checks": [{"name": "x", "command": ["nft", 1], "paths": []}]}, r"command: got \['nft', 1\], want a list"),
        ({"commands": [{"argv": [], "paths": []}]}, r"commands\[0\]: argv: got \[\], want a list: the program"),
        ({"services": [{"name": "toy", "reload_on": "/etc"}]}, "reload_on: got '/etc', want a list of absolute"),
        ({"services": [{"name": "toy", "probe_timeout": 0}]}, "probe_timeout: got 0, want a number of seconds"),
        ({"services": [{"name": "toy"}, {"name": "toy"}]}, "service toy: given twice"),
        ({"confirm_seconds": "soon"}, "confirm_seconds: got 'soon', want a number of seconds"),
    ],
)
def test_wrong_input_is_refused_with_its_place(tmp_path, arguments, message):
    with pytest.raises(AnsibleActionFail, match=message):
        action(tmp_path, arguments).run()


def test_what_is_left_out_has_its_default():
    plan = validated({"files": [{"dest": "/a", "link": "b", "mode": None}], "services": [{"name": "toy"}]})
    assert (plan["files"][0]["owner"], plan["files"][0]["mode"], plan["checks"]) == ("root", "0644", [])
    assert (plan["services"][0]["enabled"], plan["services"][0]["probe_timeout"]) == (None, 30)


def test_templates_are_rendered_as_the_template_module_does(tmp_path):
    write(
        tmp_path / "templates/etc/toy.conf.j2",
        "# {{ ansible_managed }} {{ template_path }}\n"
        "{% if true %}\n"
        "{% include 'etc/part.j2' %}\n"
        "{% endif %}\n"
        r"{{ word }} {{ nested }} {{ 'a\tb' }} {{ unsafe }}"
        "\n",
    )
    write(tmp_path / "templates/etc/part.j2", "part of {{ ansible_managed }}\n")
    variables = {"word": "over", "nested": trust_as_template("<{{ word }}>"), "unsafe": "{{ word }}"}
    entry = {"dest": "/etc/toy.conf", "template": "etc/toy.conf.j2", "vars": {"word": "ridden"}}
    (file,) = sent(tmp_path, entry, variables=variables)
    assert file["content"] == (
        "# Ansible managed etc/toy.conf.j2\npart of Ansible managedridden <ridden> a\tb {{ word }}\n"
    )
    assert sent(tmp_path, entry, variables={**variables, "ansible_managed": "ours"})[0]["content"].startswith("# ours")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ missing }}\n", "/etc/toy: template toy.j2: .*'missing' is undefined"),
        ("{% if %}", "/etc/toy: template toy"),
    ],
)
def test_a_template_that_fails_is_named(tmp_path, text, message):
    write(tmp_path / "templates/toy.j2", text)
    with pytest.raises(AnsibleActionFail, match=message):
        sent(tmp_path, {"dest": "/etc/toy", "template": "toy.j2"})


@pytest.mark.parametrize("source", ["template", "src"])
def test_a_file_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(AnsibleActionFail, match=r"/etc/toy: .*toy\.j2"):
        sent(tmp_path, {"dest": "/etc/toy", source: "toy.j2"})


def test_an_absent_file_needs_no_source_and_its_template_is_not_rendered(tmp_path):
    write(tmp_path / "templates/toy.j2", "{{ missing }}")
    absent = [{"dest": "/a", "state": "absent"}, {"dest": "/b", "state": "absent", "template": "toy.j2"}]
    assert [file["kind"] for file in sent(tmp_path, *absent)] == ["absent", "absent"]


def test_a_tree_is_sent_file_by_file_as_it_is(tmp_path):
    write(tmp_path / "files/lib/a", b"\xff\x00")
    write(tmp_path / "files/lib/deep/b", "{{ not a template }}")
    files = sent(tmp_path, {"dest": "/usr/lib/toy", "src": "lib", "mode": "0755"})
    assert [(file["dest"], file["mode"]) for file in files] == [
        ("/usr/lib/toy/a", 0o755),
        ("/usr/lib/toy/deep/b", 0o755),
    ]
    assert [file["content"].encode("utf-8", "surrogateescape") for file in files] == [
        b"\xff\x00",
        b"{{ not a template }}",
    ]


def test_a_vaulted_file_is_sent_decrypted_and_secret(tmp_path):
    write(tmp_path / "files/key", VaultLib(SECRETS).encrypt("hunter2"))
    write(tmp_path / "files/plain", "plain")
    key, plain = sent(tmp_path, {"dest": "/key", "src": "key"}, {"dest": "/plain", "src": "plain"})
    assert (key["content"], key["secret"]) == ("hunter2", True)
    assert (plain["content"], plain["secret"]) == ("plain", False)


def test_the_result_does_not_hold_what_was_sent(tmp_path):
    assert action(tmp_path, {"files": [CONFIG]}).run() == {"changed": True}


def test_the_transaction_bears_the_name_of_its_role(tmp_path):
    task = action(tmp_path, {"files": [CONFIG]})
    task.run()
    plan = json.loads(zlib.decompress(base64.b64decode(task.sent["payload"])))
    assert plan["name"] == "some.collection-toy-role"
    assert plan["manifest"] == "some.collection-toy-role-Install-the-toy"


def test_the_documentation_tells_every_option_and_its_default():
    options = read_docstring(str(MODULE))["doc"]["options"]
    assert options.pop("confirm_seconds")
    assert options.keys() == SPECIFICATION.keys()
    for name, specification in SPECIFICATION.items():
        documented = {
            key: REQUIRED if option.get("required") else option.get("default")
            for key, option in options[name]["suboptions"].items()
        }
        assert documented == {key: default for key, (_, default) in specification.items()}


def test_a_plan_that_stands_needs_no_round_trip(tmp_path):
    task = action(tmp_path, {"files": [CONFIG]})
    variables = {"inventory_hostname": "server"}
    assert task.run(task_vars=variables)["changed"]
    plan = zlib.decompress(base64.b64decode(task.sent["payload"]))
    found = {json.loads(plan)["manifest"]: hashlib.sha256(plan).hexdigest()}

    def trips(arguments) -> bool:
        again = action(tmp_path, arguments)
        again.sent = {}
        assert again.run(task_vars=variables)["changed"] == bool(again.sent)
        return bool(again.sent)

    result = SimpleNamespace(
        _host=SimpleNamespace(get_name=lambda: "server"),
        _task=SimpleNamespace(action="debian_facts", delegate_to=None),
        _result={"standing": found},
    )
    callback = standing_callback.CallbackModule()
    callback.v2_playbook_on_start(None)
    assert trips({"files": [CONFIG]})
    callback.v2_runner_on_ok(result)
    assert not trips({"files": [CONFIG]})
    assert trips({"files": [{**CONFIG, "content": "y"}]})
    result._result = {"changed": True}
    callback.v2_runner_on_ok(result)
    assert trips({"files": [CONFIG]})


@pytest.mark.parametrize("event", ["v2_runner_on_ok", "v2_runner_on_failed", "v2_runner_on_unreachable"])
@pytest.mark.parametrize("delegate", [None, "elsewhere"])
def test_what_happens_to_a_host_ends_what_is_known_of_it(event, delegate):
    for host in ("server", "other"):
        standing.note(host, {"toy": hashlib.sha256(b"plan").hexdigest()})
    result = SimpleNamespace(
        _host=SimpleNamespace(get_name=lambda: "server"),
        _task=SimpleNamespace(action="command", delegate_to=delegate),
        _result={"changed": True},
    )
    getattr(standing_callback.CallbackModule(), event)(result)
    assert not standing.is_standing("server", "toy", b"plan")
    assert standing.is_standing("other", "toy", b"plan") == (not delegate or event == "v2_runner_on_unreachable")
