"""The host below the services: clock, log, SSH, kernel, files and updates."""

from __future__ import annotations

import re
import time

import pytest

from verification.probes import ssh

DAY = 86400  # seconds
TIME_SERVICES = ("systemd-timesyncd", "chrony", "ntpsec", "openntpd")
JOURNAL_SPACE = "ec387f577b844b8fa948f33cad9a75e6"  # SD_MESSAGE_JOURNAL_USAGE: what journald allows itself
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

HYBRID = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"}
GOOD = {
    "kex": {*HYBRID, "curve25519-sha256", "curve25519-sha256@libssh.org"},
    "ciphers": {"chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com"},
    "macs": {"hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "umac-128-etm@openssh.com"},
}
FINE = {"kex": "curve25519-sha256", "cipher": "aes256-gcm@openssh.com", "mac": "hmac-sha2-256-etm@openssh.com"}
WEAK = {
    "SHA-1 key exchange": {"kex": "diffie-hellman-group14-sha1,diffie-hellman-group1-sha1"},
    "CBC": {"cipher": "aes256-cbc,aes128-cbc,3des-cbc"},
    "SHA-1 and MD5 authentication": {"cipher": "aes256-ctr", "mac": "hmac-sha1,hmac-md5"},
}

KERNEL_NETWORK = {
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.all.secure_redirects": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.all.accept_source_route": 0,
    "net.ipv4.conf.all.rp_filter": 2,
    "net.ipv6.conf.all.accept_redirects": 0,
    "net.ipv6.conf.all.accept_source_route": 0,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_rfc1337": 1,
}
KERNEL = {
    "kernel.kptr_restrict": 1,
    "kernel.dmesg_restrict": 1,
    "kernel.yama.ptrace_scope": 1,
    "kernel.unprivileged_bpf_disabled": 1,
    "fs.protected_fifos": 1,
    "fs.protected_regular": 1,
    "fs.protected_hardlinks": 1,
    "fs.protected_symlinks": 1,
}  # at least
SETTINGS = "/usr/local /etc/apt /etc/ssh /etc/systemd /etc/sysctl.d /etc/needrestart"
ROOT_ONLY = "/etc /usr/bin /usr/sbin /usr/lib /usr/local"
DEFERRED = re.compile(r"(dbus|systemd-logind|unattended-upgrades|apt-daily.*|user@\d+|getty@.+)\.service")


@pytest.fixture
def contained(host) -> bool:
    """Whether the host is a container, whose clock and kernel belong to the machine outside."""
    return host.run("systemd-detect-virt --quiet --container").rc == 0


@pytest.fixture
def sshd(target) -> tuple[str, int]:
    """Where sshd is reached, which is where Ansible reaches it."""
    return str(target.variables.get("ansible_host") or target.name), int(target.variables.get("ansible_port") or 22)


@pytest.fixture
def sshd_settings(host) -> dict[str, str]:
    """The settings of the running sshd's configuration, as sshd itself understands it."""
    with host.sudo():
        return dict(line.partition(" ")[::2] for line in host.check_output("sshd -T").splitlines())


def sysctl(host, names) -> dict[str, int]:
    """Kernel settings; those the kernel does not have are left out."""
    with host.sudo():
        lines = host.run(f"sysctl --ignore {' '.join(names)}").stdout.splitlines()
    return {name: int(value) for name, value in (line.split(" = ") for line in lines)}


def seconds(host, span: str) -> float:
    """A time span as systemd writes it, such as "14day"."""
    microseconds = re.search(r"μs: (\d+)", host.check_output("systemd-analyze timespan %s", span))
    assert microseconds, span
    return int(microseconds[1]) / 1_000_000


@pytest.mark.control("HOST-01")
def test_the_clock_is_right(host, evidence):
    before = time.time()
    theirs = float(host.check_output("date +%s.%N"))
    after = time.time()
    off = max(before - theirs, theirs - after, 0)
    evidence(f"at most {off:.1f} s away from the clock here")
    assert off < 5


@pytest.mark.control("HOST-01")
def test_the_clock_is_kept_right(host, contained, evidence):
    units = host.check_output(f"systemctl show --property=Id,UnitFileState,ActiveState {' '.join(TIME_SERVICES)}")
    enabled = [unit for unit in units.split("\n\n") if "UnitFileState=enabled" in unit]
    assert enabled, f"none of {', '.join(TIME_SERVICES)} is enabled"
    if contained:
        pytest.skip("not shown: a container's clock is that of the machine outside; the service is enabled")
    assert any("ActiveState=active" in unit for unit in enabled)
    evidence(f"synchronized: {host.check_output('timedatectl show --property=NTPSynchronized --value')}")


@pytest.mark.control("HOST-02")
def test_the_log_is_bounded(host, target, evidence):
    size = target.variables["host_journal_size"]
    wanted = int(size.rstrip("KMGT")) * UNITS[size.lstrip("0123456789")]
    with host.sudo():
        query = f"journalctl --quiet --boot --lines=1 --output=verbose MESSAGE_ID={JOURNAL_SPACE}"
        fields = dict(re.findall(r"^ +(\w+)=(.*)$", host.check_output(query), re.MULTILINE))
        used = int(host.run("du --summarize --bytes --total /var/log/journal /run/log/journal").stdout.split()[-2])
    evidence(f"journald allows itself {fields['MAX_USE_PRETTY']}, uses {used >> 20} MiB")
    assert int(fields["MAX_USE"]) <= wanted
    assert used <= wanted


@pytest.mark.control("HOST-02")
def test_the_log_forgets(host, target, evidence):
    kept = seconds(host, target.variables["host_journal_retention"])
    configured = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    effective = dict(re.findall(r"^(\w+)=(.*)$", configured, re.MULTILINE))
    assert seconds(host, effective["MaxRetentionSec"]) == kept
    assert seconds(host, effective["MaxFileSec"]) <= DAY
    with host.sudo():
        oldest = host.check_output("journalctl --quiet --lines=+1 --output=short-unix").split(".")[0]
    age = time.time() - int(oldest)
    evidence(f"the oldest entry is {age / DAY:.1f} days old, {kept / DAY:g} are allowed")
    assert age < kept + 2 * DAY


@pytest.mark.control("HOST-03")
def test_ssh_offers_modern_algorithms_alone(sshd, evidence):
    offer = ssh.offered(*sshd)
    signals = {name for name in offer.kex if name.startswith(("kex-strict-", "ext-info-"))}
    found = {"kex": set(offer.kex) - signals, "ciphers": set(offer.ciphers), "macs": set(offer.macs)}
    evidence(f"offered: {', '.join(offer.kex)}; {', '.join(offer.ciphers)}; {', '.join(offer.macs)}")
    assert {kind: names - GOOD[kind] for kind, names in found.items()} == {
        "kex": set(),
        "ciphers": set(),
        "macs": set(),
    }
    assert offer.kex[0] in HYBRID
    assert "kex-strict-s-v00@openssh.com" in signals, "open to CVE-2023-48795 (Terrapin)"
    assert not {"ssh-rsa", "ssh-dss"} & set(offer.host_keys)


@pytest.mark.control("HOST-03")
def test_ssh_refuses_weak_algorithms(sshd, evidence):
    address, port = sshd
    for kind, names in WEAK.items():
        refusal = ssh.refusal(address, port, FINE | names)
        evidence(f"{kind} -> {refusal or 'accepted'}")
        assert refusal, f"sshd takes {kind}"
    assert not ssh.refusal(address, port, FINE), "sshd refuses good algorithms too: the probe proves nothing"


@pytest.mark.control("HOST-04")
def test_ssh_takes_no_passwords(target, sshd_settings, evidence):
    wanted = "yes" if target.variables["host_ssh_passwords_enabled"] else "no"
    names = ("passwordauthentication", "kbdinteractiveauthentication", "permitrootlogin", "permitemptypasswords")
    evidence(", ".join(f"{name} {sshd_settings[name]}" for name in names))
    assert sshd_settings["passwordauthentication"] == wanted
    assert sshd_settings["kbdinteractiveauthentication"] == "no"
    assert sshd_settings["permitrootlogin"] in ("no", "prohibit-password", "without-password")
    assert sshd_settings["permitemptypasswords"] == "no"


@pytest.mark.control("HOST-04")
def test_ssh_offers_keys_alone(target, sshd, evidence):
    if target.variables["host_ssh_passwords_enabled"]:
        pytest.skip("host_ssh_passwords_enabled is on")
    methods = ssh.methods(*sshd)
    evidence(f"ways in: {', '.join(methods)}")
    assert methods == ["publickey"]


@pytest.mark.control("HOST-04")
def test_ssh_gives_strangers_little(sshd_settings, evidence):
    names = ("maxauthtries", "logingracetime", "x11forwarding", "allowagentforwarding", "permittunnel")
    evidence(", ".join(f"{name} {sshd_settings[name]}" for name in names))
    assert int(sshd_settings["maxauthtries"]) <= 4
    assert 0 < int(sshd_settings["logingracetime"]) <= 30
    assert sshd_settings["x11forwarding"] == sshd_settings["permittunnel"] == "no"


@pytest.mark.control("HOST-05")
def test_kernel_settings_of_the_network(host, evidence):
    found = sysctl(host, KERNEL_NETWORK)
    assert found == {name: value for name, value in KERNEL_NETWORK.items() if name in found}
    assert "net.ipv4.tcp_syncookies" in found
    evidence(f"{len(found)} settings are in force")


@pytest.mark.control("HOST-06")
def test_no_service_dumps_core(host, evidence):
    with host.sudo():
        unit = host.check_output("systemd-run --quiet --pipe --wait sh -c 'ulimit -H -c'")
        listed = host.check_output("systemctl show --property=Id,LimitCORE '*.service'")
    units = re.findall(r"(?:LimitCORE=(\S+)\nId=(\S+)|Id=(\S+)\nLimitCORE=(\S+))", listed)
    allowed = [a or b for limit, a, b, limit2 in units if (limit or limit2) != "0"]
    evidence(f"limit of a new service: {unit}; {len(units)} services known, {len(allowed)} may dump core")
    assert unit == "0"
    assert not allowed


@pytest.mark.control("HOST-06")
def test_no_login_dumps_core(host, evidence):
    limit = host.check_output("ulimit -H -c")
    evidence(f"limit of a new login: {limit}")
    assert limit == "0"


@pytest.mark.control("HOST-07")
def test_what_root_uses_is_changed_by_root_alone(host, evidence):
    with host.sudo():
        writable = host.check_output(f"find {ROOT_ONLY} -xdev ! -type l -perm /o+w -print")
        foreign = host.check_output(f"find {SETTINGS} -xdev ! -user root -print")
    assert not writable
    assert not foreign
    evidence(f"no file that anybody may write in {ROOT_ONLY}")


@pytest.mark.control("HOST-08")
def test_kernel_settings_of_the_machine(host, contained, evidence):
    if contained:
        pytest.skip("not shown: a container's kernel is that of the machine outside")
    found = sysctl(host, KERNEL)
    weak = {name: value for name, value in found.items() if value < KERNEL[name]}
    evidence(f"{len(found)} settings are in force")
    assert not weak
    assert host.file("/proc/sys/kernel/core_pattern").content_string.strip() == "|/bin/false"


@pytest.mark.control("UPD-01")
def test_updates_are_on(host, evidence):
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        properties = host.check_output("systemctl show %s --property=ActiveState,UnitFileState", timer)
        assert "ActiveState=active" in properties, timer
        assert "UnitFileState=enabled" in properties, timer
    settings = host.check_output("apt-config dump")
    for name in ("Update-Package-Lists", "Unattended-Upgrade"):
        assert f'APT::Periodic::{name} "1";' in settings
    assert host.service("unattended-upgrades").is_running, "a shutdown would cut an upgrade off"
    failed = host.run("systemctl is-failed apt-daily.service apt-daily-upgrade.service")
    assert failed.rc, failed.stdout
    evidence("apt-daily.timer and apt-daily-upgrade.timer are active")


@pytest.mark.control("UPD-01")
def test_security_updates_would_be_installed(host, target, evidence):
    with host.sudo():
        # Even a rehearsal calls apt's hooks, and needrestart would restart services for real.
        rehearsal = host.run("NEEDRESTART_SUSPEND=1 unattended-upgrade --dry-run --verbose")
    assert rehearsal.rc == 0, rehearsal.stderr
    said = rehearsal.stdout + rehearsal.stderr
    allowed = re.search(r"Allowed origins are: (.*)", said)
    assert allowed
    assert re.search(r"codename=\w+-security,label=Debian-Security", allowed[1])
    assert "label=Debian Backports" in allowed[1] or not target.variables["prosody_backports_enabled"]
    waiting = re.search(r"Packages that will be upgraded: *(.*)", said)
    held = re.search(r"Package \S+ has conffile prompt|Packages blacklist due to conffile prompts: \[.+\]", said)
    evidence(f"a rehearsal: allowed are {allowed[1]}; waiting: {waiting[1] if waiting else 'none'}")
    assert not waiting, "security updates are waiting"
    assert not held, held and held[0]


@pytest.mark.control("UPD-01")
def test_our_settings_hold_no_update_back(host):
    """unattended-upgrades skips a package whose settings were changed here, unless dpkg knows what to keep."""
    assert 'DPkg::Options:: "--force-confold";' in host.check_output("apt-config dump DPkg::Options")


@pytest.mark.control("UPD-02")
def test_nothing_runs_with_a_replaced_library(host, evidence):
    with host.sudo():
        said = host.check_output("needrestart -b -r l")
    stale = re.findall(r"^NEEDRESTART-SVC: (\S+)", said, re.MULTILINE)
    evidence(f"needrestart: {', '.join(stale) or 'nothing to restart'}")
    assert not [unit for unit in stale if not DEFERRED.fullmatch(unit)]


@pytest.mark.control("UPD-02")
def test_services_are_restarted_unattended(host, evidence):
    code = r"""do "/etc/needrestart/needrestart.conf"; print $nrconf{restart};"""
    mode = host.check_output("perl -e %s", f"our %nrconf; {code}")
    hook = host.check_output("apt-config dump DPkg::Post-Invoke")
    evidence(f"restart mode {mode!r}, called by apt after every change")
    assert mode == "a"
    assert "needrestart" in hook


@pytest.mark.control("UPD-02")
def test_no_reboot_is_due(host, evidence):
    due = host.file("/run/reboot-required")
    assert not due.exists, host.run("cat /run/reboot-required.pkgs").stdout
    evidence("no package asks for a reboot")


@pytest.mark.control("UPD-03")
def test_packages_come_from_debian_alone(host, evidence):
    origins = set(host.check_output("apt-get indextargets --format '$(ORIGIN)' 'Created-By: Packages'").splitlines())
    labels = set(host.check_output("apt-get indextargets --format '$(LABEL)' 'Created-By: Packages'").splitlines())
    evidence(f"origins {', '.join(sorted(origins))}; labels {', '.join(sorted(labels))}")
    assert origins <= {"Debian", "Debian Backports"}
    assert "Debian-Security" in labels


@pytest.mark.control("UPD-03")
def test_no_signature_is_waived(host, evidence):
    waived = host.run(
        "grep -rniE '^[^#]*(trusted|allow-insecure|allow-weak|allow-downgrade-to-insecure) *[=:] *yes' /etc/apt"
        " --include=*.list --include=*.sources"
    )
    assert waived.rc == 1, waived.stdout
    settings = host.check_output("apt-config dump")
    lenient = re.findall(r'^\S*Allow\w*(?:Unauthenticated|Insecure|Weak)\w* "(?:true|1|yes)";', settings, re.MULTILINE)
    assert not lenient
    evidence("no source is trusted without its signature")
