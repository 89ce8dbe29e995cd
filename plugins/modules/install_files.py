#!/usr/bin/python
"""Install files on the host as one transaction; the documentation below is the reference."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.file_transaction import Failure, Transaction

DOCUMENTATION = r"""
module: install_files
short_description: Change files and bring services to them as one transaction
description:
  - Renders and ships any number of files in one round trip, and changes the host only as a whole.
  - The new files are laid over a copy of the present ones in a stage, where O(checks) look at the complete future.
    Only if all of them pass, the files are swapped, each one atomically, and the services are started, reloaded or
    restarted and probed. If any step fails, the files, the directories and the services are put back to what they
    were, and the task fails with the words of the program that refused.
  - When nothing differs and the services are as wanted, the task costs one round trip and one call of C(systemctl);
    in a role not even that, if M(debian_facts) has found in the same run that the very same plan stands, and no task
    has changed the host since (C(plugins/standing.py)).
  - A transaction that was interrupted (power, kill) is undone by the next run with any of the same paths, which then
    brings the services to the files once more.
  - In a role, a file that the same task has installed before and no longer names is removed in the same transaction.
    The task is known by the names of the role and of itself.
options:
  files:
    description: The files. No path may occur twice.
    type: list
    elements: dict
    suboptions:
      dest:
        description: Absolute path on the host. Missing parent directories are made with mode 0755, owned by root.
        type: path
        required: true
      template:
        description:
          - Template in the role's search path, rendered as M(ansible.builtin.template) does (C(trim_blocks) on).
          - Exactly one of O(files[].template), O(files[].content), O(files[].src),
            O(files[].link) and O(files[].from) is needed,
            unless O(files[].state=absent).
        type: str
      content:
        description: The content itself.
        type: str
      src:
        description:
          - File in the role's C(files/) search path; a vaulted one is decrypted and counts as O(files[].secret).
          - A directory stands for all files below it; O(files[].dest) is then a directory.
        type: str
      link:
        description: Target of a symbolic link.
        type: str
      from:
        description: Absolute path of a file on the host itself, to copy.
        type: path
      vars:
        description: Variables for O(files[].template), over those of the task.
        type: dict
        default: {}
      state:
        description: V(absent) removes a file or link, never a directory.
        type: str
        choices: [present, absent]
        default: present
      owner:
        description: Name or number of the owner.
        type: str
        default: root
      group:
        description: Name or number of the group.
        type: str
        default: root
      mode:
        description: Octal mode, quoted.
        type: str
        default: "0644"
      secret:
        description: Keep the content out of differences, results and messages.
        type: bool
        default: false
  directories:
    description: Directories whose owner and mode matter. Made before the files.
    type: list
    elements: dict
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      owner:
        description: Name or number of the owner.
        type: str
        default: root
      group:
        description: Name or number of the group.
        type: str
        default: root
      mode:
        description: Octal mode, quoted.
        type: str
        default: "0755"
  checks:
    description: Programs that judge the new files before anything is changed. Run if a changed file is below C(paths).
    type: list
    elements: dict
    suboptions:
      name:
        description: What is checked, for the message.
        type: str
        required: true
      command:
        description: Program and arguments; C({stage}) is the directory that holds the future C(paths).
        type: list
        elements: str
        required: true
      paths:
        description: The files and directories that the check has to see complete.
        type: list
        elements: path
        required: true
  commands:
    description: Programs to run after the swap and before the services, if a changed file is below C(paths).
    type: list
    elements: dict
    suboptions:
      argv:
        description: Program and arguments.
        type: list
        elements: str
        required: true
      paths:
        description: Files and directories.
        type: list
        elements: path
        required: true
  services:
    description:
      - Services, brought to the files in the order given. systemd reads its unit files again when one has changed.
      - For each changed file the longest prefix in C(restart_on) and C(reload_on) decides; one restart covers all
        reloads, and a service that was not running is only started.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the unit.
        type: str
        required: true
      enabled:
        description: Whether it comes up at boot. Left alone if not given.
        type: bool
      state:
        description: Ensured at every run. If not given, a running service is still restarted or reloaded.
        type: str
        choices: [started, stopped]
      restart_on:
        description: Files and directories whose change needs a restart.
        type: list
        elements: path
        default: []
      reload_on:
        description: Files and directories whose change needs a reload.
        type: list
        elements: path
        default: []
      restart_command:
        description: Program and arguments in place of C(systemctl restart).
        type: list
        elements: str
      reload_command:
        description: Program and arguments in place of C(systemctl reload).
        type: list
        elements: str
      probe:
        description:
          - Program and arguments that exit with 0 once the service serves. Tried again until C(probe_timeout).
          - Without a probe the service has to stay up for a second.
        type: list
        elements: str
      probe_timeout:
        description: Seconds that the probe may take to succeed.
        type: float
        default: 30
  confirm_seconds:
    description:
      - For changes that could cut the host off, such as a firewall's. Before anything is swapped, a timer of systemd is
        set on the host that puts everything back after so many seconds. Once the change is made, the control node opens
        a new connection to the host, and only over that one the timer is stopped.
      - If none comes through in time, the task fails and the host is as it was before.
    type: float
attributes:
  check_mode:
    description: Reports all that would change and writes nothing. Runs the checks on a stage in C(/tmp), but leaves out
      those whose program, or whose files' owner, a fresh host does not have yet.
    support: full
  diff_mode:
    description: Shows each file's content, owner, group and mode, before and after.
    support: full
requirements: [systemd, root on the host]
author: [Portcullis contributors]
"""

EXAMPLES = r"""
- name: Install the firewall and load it
  install_files:
    files:
      - dest: /etc/nftables.conf
        template: etc/nftables.conf.j2
        mode: "0640"
      - dest: /etc/nftables.d/old.nft
        state: absent
    directories:
      - path: /etc/nftables.d
        mode: "0750"
    checks:
      - name: nft accepts the rules
        command: [/usr/local/lib/portcullis/firewall-check, "{stage}"]
        paths: [/etc/nftables.conf, /etc/nftables.d]
    services:
      - name: nftables
        enabled: true
        state: started
        reload_on: [/etc/nftables.conf, /etc/nftables.d]

- name: Install a service with its unit, key and helper programs
  install_files:
    files:
      - {dest: /etc/systemd/system/greeter.service, src: etc/systemd/system/greeter.service}
      - {dest: /etc/greeter/key, content: "{{ greeter_key }}", group: greeter, mode: "0640", secret: true}
      - {dest: /usr/local/lib/greeter, src: usr/local/lib/greeter, mode: "0755"}
    services:
      - name: greeter
        enabled: true
        state: started
        restart_on: [/etc/systemd/system/greeter.service, /usr/local/lib/greeter]
        reload_on: [/etc/greeter]
        probe: [/usr/local/lib/greeter/probe]
"""

RETURN = r"""
changed_files:
  description: Paths that were changed, or brought to the services again after an interruption.
  returned: success
  type: list
  elements: str
  sample: [/etc/nftables.conf]
actions:
  description: What was done after the swap, in order; in check mode what would be done to the services.
  returned: success
  type: list
  elements: str
  sample: [reload nftables]
skipped_checks:
  description: Checks that check mode could not run on this host.
  returned: success
  type: list
  elements: str
  sample: []
backup:
  description: Directory on the host that keeps the previous state until the next change; empty if nothing changed.
  returned: success
  type: str
  sample: /var/lib/portcullis/previous/firewall-1a2b3c4d
"""


def main() -> None:
    """Run the plan that the action plugin has made."""
    specification = {
        "payload": {"type": "str", "required": True, "no_log": True},
        "confirm": {"type": "bool", "default": False},
    }
    module = AnsibleModule(specification, supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="install_files changes the system: it needs root (become: true)")
    text = zlib.decompress(base64.b64decode(module.params["payload"]))
    digest = hashlib.sha256(text).hexdigest()
    transaction = Transaction(json.loads(text), check=module.check_mode, diff=module._diff, digest=digest)
    result: dict[str, Any] = {}
    try:
        if module.params["confirm"]:
            transaction.confirm()
        else:
            result = transaction.run()
    except (Failure, OSError) as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
