"""The command line. Exit status: 0 good, 1 a check failed, 2 wrong use or wrong input, 130 interrupted."""

from __future__ import annotations

import argparse
import sys

from cli import bench, demo, deploy, test, verify, zone
from cli.common import INTERRUPTED, WRONG, WrongInput

COMMANDS = {"demo": demo, "test": test, "deploy": deploy, "verify": verify, "dns": zone, "bench": bench}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; a command's module adds its own arguments."""
    top = argparse.ArgumentParser(
        prog="portcullis",
        description="A hardened XMPP server: one command deploys it, one command proves it.",
        epilog="Exit status: 0 good, 1 a check failed, 2 wrong use or wrong input.",
        allow_abbrev=False,
    )
    # The entry script asks this first, so that wrong use is refused before anything is installed.
    top.add_argument("--needs", action="store_true", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n\n")
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}\n\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return top


def main(argv: list[str]) -> int:
    """Run the command line `argv` and return the exit status."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and arguments.command not in ("deploy", "dns"):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    module = COMMANDS[arguments.command]
    try:
        if arguments.needs:
            print(*module.needs(arguments))
            return 0
        return module.run(arguments)
    except WrongInput as error:
        print(f"portcullis {arguments.command}: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
