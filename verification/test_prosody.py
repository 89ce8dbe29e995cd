"""Prosody from inside: version, files, sandbox, configuration, and what it writes down."""

from __future__ import annotations

import re
import uuid
from urllib.parse import quote

import pytest
import yaml

from verification.catalogue import KIT
from verification.probes import xmpp
from verification.probes.inside import DATA, query, setting

LIBRARY = "/usr/local/lib/portcullis"
HIGHEST_EXPOSURE = 1.2
CONFIGURATION = "/etc/prosody/prosody.cfg.lua"


@pytest.fixture
def pid(host) -> str:
    """The process id of the running Prosody."""
    number = host.check_output("systemctl show --property=MainPID --value prosody")
    assert number != "0", "prosody.service is not running"
    return number


@pytest.fixture
def status(host, pid) -> dict[str, str]:
    """What the kernel says of the running Prosody (proc(5), /proc/PID/status)."""
    lines = host.check_output(f"cat /proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# Updates


@pytest.mark.control("UPD-04")
def test_this_prosody_has_no_known_holes(host, evidence):
    version = host.check_output("dpkg-query --show --showformat='${Version}' prosody")
    ranges = yaml.safe_load((KIT / "roles/prosody/vars/main.yml").read_text())["__prosody_fixed_versions"]
    fixed = [
        bounds
        for bounds in ranges
        if host.run("dpkg --compare-versions %s ge %s", version, bounds["from"]).rc == 0
        and host.run("dpkg --compare-versions %s lt %s", version, bounds["below"]).rc == 0
    ]
    evidence(f"prosody {version}" + (f", fixed since {fixed[0]['from']}" if fixed else ""))
    assert fixed, f"prosody {version} lacks the fixes for CVE-2026-43504 to 43507, or is of an unknown line"


@pytest.mark.control("UPD-04")
def test_the_installed_prosody_is_the_one_that_runs(host, pid, evidence):
    age = int(host.check_output("ps --no-headers -o etimes --pid %s", pid))
    now, unpacked = map(int, host.check_output("date +%s; stat --format=%Y /var/lib/dpkg/info/prosody.list").split())
    evidence(f"running for {age} s, the package was unpacked {now - unpacked} s ago")
    assert age <= now - unpacked, "it was started before its package was updated"


# Sandbox


@pytest.mark.control("SBX-01")
def test_exposure(host, evidence):
    answer = host.run("systemd-analyze security --no-pager prosody").stdout
    score = re.search(r"Overall exposure level for prosody\.service: ([\d.]+)", answer)
    assert score, "systemd-analyze gives no score"
    evidence(f"systemd-analyze security prosody: {score[1]}")
    assert float(score[1]) <= HIGHEST_EXPOSURE, f"more than {HIGHEST_EXPOSURE}"


@pytest.mark.control("SBX-02")
def test_prosody_has_no_privilege(status, evidence):
    capabilities = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    evidence(f"uid {status['Uid'].split()[1]}, CapEff {status['CapEff']}, CapBnd {status['CapBnd']}")
    assert "0" not in status["Uid"].split()
    assert not any(int(value, 16) for value in capabilities.values()), "it has capabilities, or could have"


@pytest.mark.control("SBX-02")
def test_prosody_cannot_gain_privilege(status, evidence):
    evidence(f"NoNewPrivs {status['NoNewPrivs']}, Seccomp {status['Seccomp']} (2: filter)")
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), "it may gain privilege"


@pytest.mark.control("SBX-03")
@pytest.mark.parametrize("path", ["/etc/prosody", "/usr/local/lib", "/var/log", "/etc/systemd/system"])
def test_prosody_cannot_change_the_system(host, pid, evidence, path):
    file = f"{path}/portcullis-verification"
    attempt = host.run(f"nsenter --target {pid} --mount -- touch {file}")
    host.run(f"rm -f {file}")
    evidence(f"touch {file}, even as root -> {attempt.stderr.strip().rpartition(': ')[2] or 'done'}")
    assert attempt.rc != 0, f"{path} can be written to"


@pytest.mark.control("SBX-03")
@pytest.mark.parametrize("path", ["/home", "/root", "/etc/portcullis", "/boot"])
def test_prosody_cannot_look_around(host, pid, evidence, path):
    seen = host.run(f"nsenter --target {pid} --mount -- setpriv --reuid=prosody --clear-groups ls -A {path}")
    evidence(f"ls {path} as prosody -> {seen.stderr.strip().rpartition(': ')[2] or seen.stdout.split()[:3]}")
    assert seen.rc != 0 or not seen.stdout.strip(), f"{path} can be seen"


@pytest.mark.control("SBX-04")
def test_prosody_cannot_take_the_whole_host(host, pid, evidence):
    limits = host.check_output(f"cat /proc/{pid}/limits")
    core = re.search(r"Max core file size\s+(\S+)", limits)
    assert core, limits
    assert core[1] == "0", "a crash leaves a copy of the memory on disk"
    group = host.check_output(f"cut -d: -f3 /proc/{pid}/cgroup | tail -n 1")
    if not host.file(f"/sys/fs/cgroup{group}/memory.max").exists:
        pytest.skip("not shown: the kernel does not bound memory in this container")
    maximum, tasks = (host.check_output(f"cat /sys/fs/cgroup{group}/{name}") for name in ("memory.max", "pids.max"))
    evidence(f"memory.max {maximum}, pids.max {tasks}, core files {core[1]}")
    assert "max" not in (maximum, tasks)


# Configuration


@pytest.fixture
def trial(host) -> str:
    """The program that boots a configuration apart from the running server."""
    program = f"{LIBRARY}/prosody-trial"
    if not host.file(program).exists:
        pytest.skip(f"not shown: {program} is not on this host")
    return program


@pytest.mark.control("CONF-01")
def test_every_option_is_read(host, trial, evidence):
    boot = host.run(f"{trial} /")
    assert boot.rc == 0, boot.stderr
    options = host.check_output(f"grep --count --extended-regexp '^[[:space:]]*[a-z0-9_]+ = ' {CONFIGURATION}")
    evidence(f"trial boot of {CONFIGURATION}: no complaint, each of {options} lines with an option is read")


@pytest.mark.control("CONF-01")
@pytest.mark.parametrize("option", ["max_connections_per_ip", "tls_channel_binding"])
def test_an_invented_option_is_found(host, trial, evidence, option):
    stage = host.check_output("mktemp --directory --tmpdir=/run verification.XXXXXX")
    try:
        host.check_output(f"mkdir {stage}/etc && cp -a /etc/prosody {stage}/etc/")
        host.check_output(f"sed -i '1i {option} = 5' {stage}{CONFIGURATION}")
        boot = host.run(f"{trial} {stage}")
    finally:
        host.run(f"rm -rf {stage}")
    complaint = next((line for line in boot.stderr.splitlines() if option in line), "")
    evidence(f"{option} = 5 -> {complaint}")
    assert boot.rc != 0
    assert complaint, boot.stderr


@pytest.mark.control("CONF-02")
def test_prosody_cannot_change_its_configuration(host, evidence):
    writable = host.check_output(
        f"find /etc/prosody $(ls -d {LIBRARY}) \\( ! -user root -o -perm /022 \\) ! -type l -printf '%M %u:%g %p\\n'"
    )
    assert not writable, writable
    file = host.file(CONFIGURATION)
    evidence(f"{CONFIGURATION} {file.mode:o} {file.user}:{file.group}")


@pytest.mark.control("CONF-02")
def test_nobody_else_reads_the_configuration(host, evidence):
    attempt = host.run(f"setpriv --reuid=nobody --regid=nogroup --clear-groups cat {CONFIGURATION}")
    evidence(f"cat {CONFIGURATION} as nobody -> {attempt.stderr.strip().rpartition(': ')[2] or 'readable'}")
    assert attempt.rc != 0


@pytest.mark.control("CONF-03")
def test_prosody_serves_http_to_nginx_alone(host, pid, target, evidence):
    listening = host.check_output("ss --no-header --tcp --listening --numeric --processes")
    mine = [line.split()[3] for line in listening.splitlines() if f"pid={pid}," in line]
    ports = {address.rpartition(":")[2] for address in mine if not address.startswith(("127.", "[::1]"))}
    inside = sorted(address for address in mine if address.startswith(("127.", "[::1]")))
    evidence(f"public {', '.join(sorted(ports))}; loopback {', '.join(inside)}")
    assert ports == {"5222", "5223"} | ({"5269", "5270"} if target.federates else set()), "not the declared ports"


@pytest.mark.control("CONF-04")
def test_prosody_is_administered_over_its_socket_alone(host, evidence):
    listening = host.check_output("ss --no-header --tcp --listening --numeric")
    assert not re.search(r":5582\s", listening), "the telnet console listens on 5582"
    path = host.check_output("ss --no-header --unix --listening | grep --only-matching '/[^ ]*prosody.sock'")
    file = host.file(path)
    parent = host.file(path.rpartition("/")[0])
    evidence(f"{path} {file.mode:o} {file.user}:{file.group} in {parent.mode:o} {parent.user}:{parent.group}")
    assert not (file.mode & 0o007 and parent.mode & 0o007), "everybody on the host may administer Prosody"


@pytest.mark.control("CONF-05")
def test_prosodyctl_finds_nothing(host, evidence):
    check = host.run("prosodyctl check config")
    evidence(f"prosodyctl check config: {check.stdout.strip().splitlines()[-1]}")
    assert check.rc == 0, check.stdout


# Registration


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("password_policy", marks=pytest.mark.control("AUTH-07")),
        pytest.param("mimicking", marks=pytest.mark.control("REG-03")),
        pytest.param("tombstones", marks=pytest.mark.control("REG-03")),
    ],
)
def test_modules_that_guard_registration_are_loaded(host, target, evidence, module):
    for domain in target.domains:
        loaded = host.check_output("prosodyctl shell module list %s", domain).split()
        assert module in loaded, f"{domain}: mod_{module} is not loaded"
    evidence(f"mod_{module} is loaded at {', '.join(target.domains)}")


# Hostile clients


@pytest.mark.kit
@pytest.mark.parametrize(
    "module",
    [
        pytest.param("blocklists", marks=[pytest.mark.control("SPAM-01"), pytest.mark.control("SPAM-05")]),
        pytest.param("watch_spam_reports", marks=pytest.mark.control("SPAM-02")),
        pytest.param("strangers", marks=pytest.mark.control("SPAM-03")),
        pytest.param("account_actions", marks=pytest.mark.control("SPAM-04")),
        pytest.param("quotas", marks=pytest.mark.control("FLOOD-07")),
        pytest.param("room_rate", marks=pytest.mark.control("FLOOD-08")),
        pytest.param("room_letters", marks=pytest.mark.control("SPAM-03")),
    ],
)
def test_modules_against_hostile_clients_are_loaded(host, target, evidence, module):
    if not host.file(f"{LIBRARY}/prosody-modules/mod_quotas.lua").exists:
        pytest.skip("not shown: the kit's modules are not on this host")
    names = [each.muc if module.startswith("room_") else each.domain for each in target.hosts]
    for name in filter(None, names):
        loaded = host.check_output("prosodyctl shell module list %s", name).split()
        assert module in loaded, f"{name}: mod_{module} is not loaded"
    evidence(f"mod_{module} is loaded at {', '.join(filter(None, names))}")


# Passwords and privacy


@pytest.mark.control("AUTH-03")
def test_passwords_are_kept_as_salted_hashes(host, evidence):
    if not host.file(f"{DATA}/prosody.sqlite").exists:
        pytest.skip("not shown: accounts are not in SQLite")
    rows = query(host, "select key, length(value), count(*) from prosody where store = 'accounts' group by 1, 2")
    kept = {(key, length): count for key, length, count in rows}
    if not rows:
        pytest.skip("not shown: there are no accounts yet")
    assert not [key for key, _ in kept if key == "password"], "passwords are kept in plaintext"
    evidence(f"{kept.get(('stored_key', 64), 0)} accounts with SHA-256 keys, no key 'password'")
    assert {length for key, length in kept if key == "stored_key"} == {64}, "keys of another length than SHA-256"
    weakest = query(host, "select min(cast(value as integer)) from prosody where key = 'iteration_count'")[0][0]
    assert weakest >= 10_000, f"{weakest} iterations"


@pytest.mark.control("PRIV-01")
def test_the_log_holds_no_messages_and_no_addresses(host, login, evidence):
    marker = f"portcullis-{uuid.uuid4()}"
    cursor = host.check_output("journalctl --lines=0 --show-cursor --quiet").partition("cursor: ")[2]
    alice, bob = login(0), login(1)
    bob.send(f"<message type='chat' to='{alice.jid}'><body>{marker}</body></message>")
    alice.wait("message", from_=bob.jid)
    alice.stream.close()
    lines = host.check_output(
        "journalctl --sync; journalctl --no-pager --quiet --output=cat --unit=prosody --after-cursor=%s", cursor
    ).splitlines()
    if not lines:
        pytest.skip("not shown: Prosody writes nothing to the journal of a login and a message")
    assert not [line for line in lines if marker in line], "the log holds a message"
    addressed = [line for line in lines if ADDRESS.search(line) and "failed login" not in line]
    assert not addressed, addressed[0]
    bracketed = f"[{marker[0]}]{marker[1:]}"  # so that the log of commands does not hold it
    files = host.run("grep --recursive --files-with-matches --exclude-dir=journal %s /var/log", bracketed)
    assert not files.stdout, files.stdout
    evidence(f"{len(lines)} lines since a login and a message: no text, no address; nothing in /var/log")


ADDRESS = re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b|\b[0-9a-f]{1,4}(:[0-9a-f]{0,4}){3,7}\b")


@pytest.mark.control("PRIV-03")
@pytest.mark.parametrize("store", ["archive_expires_after", "muc_log_expires_after", "http_file_share_expires_after"])
def test_what_is_kept_is_kept_for_a_time(host, target, evidence, store):
    service = {"muc_log_expires_after": "muc", "http_file_share_expires_after": "upload"}.get(store, "domain")
    for virtual_host in target.hosts:
        name = getattr(virtual_host, service)
        if name:
            value = setting(host, name, store)
            evidence(f"{name}: {store} = {value.replace('nil', 'not set: one week')}")
            assert value != "never", "it is kept for ever"


@pytest.mark.control("PRIV-04")
@pytest.mark.control("CHAT-13")
def test_push_tells_nothing(login, evidence):
    marker = f"portcullis-{uuid.uuid4()}"
    alice, push_service = login(0), login(-1, resource=quote(marker))
    push_service.send("<presence/>")
    alice.send("<presence/>")
    try:
        alice.iq("set", f"<enable xmlns='urn:xmpp:push:0' jid='{push_service.jid}' node='{marker}'/>")
    except xmpp.StanzaError as refused:
        pytest.skip(f"no push service is told anything: {refused}")
    alice.send("<presence type='unavailable'/>")
    alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>")  # now the server has seen her go
    alice.stream.close()
    try:
        push_service.send(f"<message type='chat' to='{alice.bare}'><body>{marker}-body</body></message>")
        notification = push_service.wait("iq", type="set")
    finally:
        again = login(0)
        again.iq("set", f"<disable xmlns='urn:xmpp:push:0' jid='{push_service.jid}' node='{marker}'/>")
    fields = notification.iter("{jabber:x:data}field")
    told = {field.get("var"): field.findtext("{jabber:x:data}value", "") for field in fields}
    told.pop("FORM_TYPE", None)
    evidence("; ".join(f"{name}: {value or 'empty'}" for name, value in told.items()))
    assert not told.get("last-message-sender"), "the sender is told"
    assert marker not in "".join(told.values()), "the message is told"


@pytest.mark.control("PRIV-05")
def test_the_data_is_prosody_s_alone(host, evidence):
    directory = host.file(DATA)
    evidence(f"{DATA} {directory.mode:o} {directory.user}:{directory.group}")
    assert (directory.user, directory.mode & 0o007) == ("prosody", 0)
    others = host.check_output(f"find {DATA} -type f \\( -perm /077 -o ! -user prosody \\) -printf '%M %u:%g %p\\n'")
    assert not others, others
