#!/usr/bin/python
"""The host's end of the certificates: see DOCUMENTATION."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: certificate_store
short_description: Reports, requests and installs the certificates of a host
description:
  - Works on the store C(/etc/portcullis/certificates/DOMAIN/{fullchain,privkey}.pem). Needs C(openssl) on the host.
  - Private keys are made on the host, or arrive in C(private_keys); none is ever returned, logged or shown.
options:
  state:
    description:
      - C(reported) returns what the store holds for C(domains).
      - C(requested) makes a new key for each of C(domains), next to the one in use, and returns a PKCS 10 request.
      - C(pruned) removes what is kept for any domain that is not among C(domains).
      - C(installed) lays each of C(chains) beside the key of its request, or the one in C(private_keys), and calls
        C(certificate-deploy) for the domains whose pair is new or did not reach every service before.
    type: str
    choices: [reported, requested, pruned, installed]
    required: true
  domains:
    description: Names of the virtual hosts.
    type: list
    elements: str
    default: []
  key_type:
    description: Type of the keys to make.
    type: str
    choices: [ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096]
    default: ecdsa-p256
  chains:
    description: Certificate chain by domain, PEM, the domain's own certificate first.
    type: dict
    default: {}
  private_keys:
    description: Private key by domain, PEM.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Bring a certificate to the host
  certificate_store:
    state: installed
    chains: {example.org: "{{ lookup('ansible.builtin.file', 'example.org.pem') }}"}
    private_keys: {example.org: "{{ lookup('ansible.builtin.unvault', 'example.org.key') }}"}
"""

RETURN = r"""
certificates:
  description: By domain, C(chain) and C(public_key) (PEM or null), and whether it is C(unfinished), see C(installed).
  type: dict
  returned: when O(state=reported)
requests:
  description: PKCS 10 request by domain, PEM. Empty in check mode.
  type: dict
  returned: when O(state=requested)
changed_domains:
  description: >-
    Domains with a new pair, or with one that did not reach every service before; or those that were removed.
  type: list
  returned: when O(state=installed) or O(state=pruned)
"""

STORE = Path("/etc/portcullis/certificates")
ORDERS = [Path("/etc/portcullis/acme/issued"), Path("/var/lib/portcullis/certificates")]
"""Where certificate-order keeps DOMAIN.json and DOMAIN.tlsa.json."""
DEPLOY = "/usr/local/lib/portcullis/certificate-deploy"
KEY_OPTIONS = {
    "ecdsa-p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ecdsa-p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "rsa-2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa-3072": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    "rsa-4096": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
}


class Store:
    """The pairs of one host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def report(self, domain: str) -> dict[str, Any]:
        """What the store holds for a domain."""
        directory = STORE / domain
        key = directory / "privkey.pem"
        return {
            "chain": _read(directory / "fullchain.pem"),
            "public_key": self._openssl("pkey", "-pubout", "-in", str(key)) if key.exists() else None,
            "unfinished": self.unfinished(domain),
        }

    def request(self, domain: str, key_type: str) -> str:
        """Make a key that waits for its certificate, and return the request. Names are the signer's business."""
        waiting = STORE / domain / "next"
        shutil.rmtree(waiting, ignore_errors=True)
        waiting.mkdir(parents=True, mode=0o700)
        key = str(waiting / "privkey.pem")
        self._openssl("genpkey", *KEY_OPTIONS[key_type], "-out", key)
        return self._openssl("req", "-new", "-key", key, "-subj", "/")

    def in_use(self, domain: str, chain: str, private_key: str | None) -> bool:
        """Whether the pair is the one in use; a key that never left the host is the one of its chain."""
        directory = STORE / domain
        return chain == _read(directory / "fullchain.pem") and (
            private_key is None or private_key == _read(directory / "privkey.pem")
        )

    def unfinished(self, domain: str) -> bool:
        """Whether the pair in use did not reach every service."""
        return (STORE / domain / "unfinished").exists()

    def lay_beside(self, domain: str, chain: str, private_key: str | None) -> None:
        """Put a pair where C(certificate-deploy) looks for it."""
        waiting = STORE / domain / "next"
        waiting.mkdir(parents=True, mode=0o700, exist_ok=True)
        if private_key is not None:
            _write(waiting / "privkey.pem", private_key)
        _write(waiting / "fullchain.pem", chain)

    def summary(self, chain: str | None) -> str:
        """The facts of a certificate that a person wants to compare."""
        if not chain:
            return ""
        return self._openssl("x509", "-noout", "-issuer", "-serial", "-dates", "-ext", "subjectAltName", data=chain)

    def kept_for_others(self, domains: list[str]) -> dict[str, set[Path]]:
        """What is kept for any other domain, by domain."""
        kept: dict[str, set[Path]] = {}
        for pair in [*STORE.glob("*/current"), *STORE.glob("*/next")]:
            kept.setdefault(pair.parent.name, set()).add(pair.parent)
        for record in [record for directory in ORDERS for record in directory.glob("*.json")]:
            kept.setdefault(record.name.removesuffix(".json").removesuffix(".tlsa"), set()).add(record)
        return {domain: paths for domain, paths in kept.items() if domain not in domains}

    def remove(self, paths: set[Path]) -> None:
        """Remove files, and directories with all that is in them."""
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def deploy(self, domains: list[str]) -> None:
        """Bring the pairs of the domains into service, or fail in the words of C(certificate-deploy)."""
        status, out, err = self.module.run_command([DEPLOY, *domains])
        if status != 0:
            self.module.fail_json(
                msg=f"A certificate did not reach every service:\n{(out + err).strip()}", changed_domains=domains
            )

    def _openssl(self, *arguments: str, data: str | None = None) -> str:
        _status, out, _err = self.module.run_command(["openssl", *arguments], data=data, check_rc=True)
        return out


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _write(path: Path, content: str) -> None:
    """Write a file that only root can read, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


def main() -> None:
    """Do one of the four jobs."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["reported", "requested", "pruned", "installed"], "required": True},
            "domains": {"type": "list", "elements": "str", "default": []},
            "key_type": {"type": "str", "choices": list(KEY_OPTIONS), "default": "ecdsa-p256"},
            "chains": {"type": "dict", "default": {}},
            "private_keys": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    parameters = module.params
    store = Store(module)

    if parameters["state"] == "reported":
        module.exit_json(certificates={domain: store.report(domain) for domain in parameters["domains"]})

    if parameters["state"] == "requested":
        requests = {}
        if not module.check_mode:
            requests = {domain: store.request(domain, parameters["key_type"]) for domain in parameters["domains"]}
        module.exit_json(changed=bool(parameters["domains"]), requests=requests)

    if parameters["state"] == "pruned":
        others = store.kept_for_others(parameters["domains"])
        for paths in others.values() if not module.check_mode else ():
            store.remove(paths)
        diff = [
            {"before_header": f"certificate of {domain}", "before": f"{domain}\n", "after": ""} for domain in others
        ]
        module.exit_json(changed=bool(others), changed_domains=sorted(others), diff=diff)

    pairs = {domain: (chain, parameters["private_keys"].get(domain)) for domain, chain in parameters["chains"].items()}
    new = {domain: pair for domain, pair in pairs.items() if not store.in_use(domain, *pair)}
    changed = [domain for domain in pairs if domain in new or store.unfinished(domain)]
    diff = [
        {
            "before_header": f"certificate of {domain}",
            "before": store.summary(_read(STORE / domain / "fullchain.pem")),
            "after_header": f"certificate of {domain}",
            "after": store.summary(chain),
        }
        for domain, (chain, _key) in new.items()
    ]
    if changed and not module.check_mode:
        for domain, pair in new.items():
            store.lay_beside(domain, *pair)
        store.deploy(changed)
    module.exit_json(changed=bool(changed), changed_domains=changed, diff=diff)


if __name__ == "__main__":
    main()
