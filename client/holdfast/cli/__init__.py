"""`holdfast`: blobs from the command line. It knows the SDK's surface and nothing below it."""

from holdfast.cli.commands import main

__all__ = ["main"]
