"""Opening a stream: dial, say Hello, hear Hello, check who it is. Everything that can go wrong is `PeerUnreachable`."""

from __future__ import annotations

import asyncio

from holdfast_node.core.errors import HoldfastError, PeerUnreachable
from holdfast_node.core.ids import StoreId
from holdfast_node.services.link.carrier import Carrier, CarrierLost, Dial
from holdfast_node.services.link.frames import Frame, FrameError, FrameType, decode, encode
from holdfast_node.services.link.hello import ErrorDetail, Hello, check_hello, check_store, error_of, hello_of
from holdfast_node.services.link.limits import BULK_FRAME_BYTES_MAX
from holdfast_node.services.link.surroundings import Surroundings


async def open_stream(
    around: Surroundings, dial: Dial, address: str, *, bulk: bool, expect: StoreId | None
) -> tuple[Carrier, Hello]:
    """A stream whose far end is `expect` (None: whoever answers). Bounded by `timing.connect_s`."""
    carrier: Carrier | None = None
    theirs: Hello | None = None
    try:
        async with asyncio.timeout(around.timing.connect_s):
            carrier = await dial(address, bulk)
            hello = await _greet(around, carrier, bulk=bulk)
        if expect is not None:
            check_store(address, expect, hello)
        theirs = hello
        return carrier, theirs
    except PeerUnreachable:
        raise
    except HoldfastError as error:
        raise PeerUnreachable(
            f"{address}: {error.message}", hint=error.hint, evidence=error.evidence
        ) from error
    except TimeoutError as error:
        raise PeerUnreachable(f"{address} did not answer the greeting in time") from error
    except (CarrierLost, FrameError) as error:
        raise PeerUnreachable(f"{address}: {error}") from error
    finally:
        if theirs is None and carrier is not None:
            carrier.close()


async def _greet(around: Surroundings, carrier: Carrier, *, bulk: bool) -> Hello:
    mine = hello_of(around.identity(), bulk=bulk, window_bytes=0)
    body = around.bodies.encode(mine)
    await carrier.write(encode(Frame(FrameType.HELLO, epoch=around.epochs.mine(), body=body)))
    message = await carrier.read()
    frame = next(decode(message, frame_bytes_max=BULK_FRAME_BYTES_MAX), None)
    if frame is None:
        raise CarrierLost("closed before it said who it is")
    if frame.type == FrameType.GOODBYE:
        raise error_of(around.bodies.decode(ErrorDetail, frame.body))
    if frame.type != FrameType.HELLO:
        raise FrameError(f"the first frame has type {frame.type}, not Hello")
    theirs = around.bodies.decode(Hello, frame.body)
    check_hello(mine, theirs)
    return theirs
