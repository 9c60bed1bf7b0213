"""Ask several stores at once and stop waiting as soon as the answers suffice: one future, no task per message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from holdfast_node.core.errors import InternalError
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import Reply, Request
from holdfast_node.ports import Answer, Answered, Failed, Links

R = TypeVar("R", bound=Reply)
T = TypeVar("T")
P = ParamSpec("P")
Answers = Mapping[StoreId, Answer]


def failing(asker: asyncio.Future[T], step: Callable[P, None]) -> Callable[P, None]:
    """`step` takes in an answer, or a silence, for whoever awaits `asker`. What it raises ends that wait, which might
    have no other end. If nobody waits any more it goes on to the link, which reports it."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(*args, **kwargs)
        except Exception as error:
            if asker.done():
                raise
            asker.set_exception(error)

    return guarded


async def call(links: Links, to: StoreId, request: Request, *, expect: type[R], timeout_s: float) -> R:
    """One request, one reply of the class expected, or the typed error that came instead."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)

    links.send(to, request, timeout_s=timeout_s, done=done)
    return unwrap(await future, expect)


def unwrap(answer: Answer, expect: type[R]) -> R:
    """The reply of the class expected; raises the failure, or `InternalError` for a reply of another class."""
    if isinstance(answer, Failed):
        raise answer.error
    if not isinstance(answer.reply, expect):
        raise InternalError(f"expected {expect.__name__}, got {type(answer.reply).__name__}")
    return answer.reply


async def gather(
    links: Links,
    requests: Mapping[StoreId, Request],
    *,
    timeout_s: float,
    enough: Callable[[Answers], bool],
    late: Callable[[Answer], None] | None = None,
) -> dict[StoreId, Answer]:
    """Send all requests; return the answers so far as soon as `enough(answers)` or when all are in.

    Answers that come after that go to `late`. Every request ends within `timeout_s`, so this does too.
    """
    answers: dict[StoreId, Answer] = {}
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(answer: Answer) -> None:
        if future.done():
            if late is not None:
                late(answer)
            return
        answers[answer.store] = answer
        if len(answers) == len(requests) or enough(answers):
            future.set_result(None)

    if not requests:
        return answers
    for store, request in requests.items():
        links.send(store, request, timeout_s=timeout_s, done=failing(future, done))
    await future
    return dict(answers)


def replies(answers: Answers, expect: type[R]) -> dict[StoreId, R]:
    """The successful replies of the class expected."""
    return {
        store: answer.reply
        for store, answer in answers.items()
        if isinstance(answer, Answered) and isinstance(answer.reply, expect)
    }
