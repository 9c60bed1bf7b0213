"""The command `holdfast-node`: arguments in, exit status out. Knows the config and the app."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="holdfast-node", description="Run one storage node of a Holdfast cluster.", allow_abbrev=False
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="the cluster's TOML file, the same on every node"
    )
    parser.add_argument("--node", help="which [[node]] of the file this process is")
    parser.add_argument(
        "--check", action="store_true", help="read the file, list every mistake in it, and exit"
    )
    parser.add_argument(
        "--format-if-empty",
        action="store_true",
        help="make a new store if the data directory is empty; without it an empty directory is refused, "
        "because it may be a disk that is not mounted",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit 0 after an orderly stop, 1 if the node was refused or failed, 2 for bad usage or a bad file."""
    if not __debug__:
        sys.stderr.write("holdfast-node: python -O removes the checks this node relies on; run it without\n")
        return EXIT_USAGE
    arguments = _arguments(argv)
    from holdfast_node.config import ConfigError, load

    try:
        config = load(arguments.config)
        if arguments.check:
            sys.stdout.write(f"{arguments.config}: fine, {len(config.nodes)} nodes\n")
            return 0
        if arguments.node is None:
            sys.stderr.write("holdfast-node: --node says which node of the file this is\n")
            return EXIT_USAGE
        config.node(arguments.node)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    from holdfast_node.app import run

    return run(config, arguments.node, format_if_empty=arguments.format_if_empty)


if __name__ == "__main__":
    sys.exit(main())
