"""The asynchronous SDK: `async with holdfast.aio.connect("127.0.0.1:7101") as client`. Same names as the
synchronous one; a client belongs to the loop it is first used on."""

from holdfast.aio.client import Bucket, Client, Settings, connect, settings_of
from holdfast.aio.downloads import Blob
from holdfast.aio.sources import Data

__all__ = ["Blob", "Bucket", "Client", "Data", "Settings", "connect", "settings_of"]
