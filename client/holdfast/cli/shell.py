"""What both command lines share: output for people or programs, errors with their exit status, never a traceback.

Exit status: 0 fine · 1 refused, failed or unhealthy · 2 bad usage · 3 no node answered · 128 and the number of the
signal that ended it: 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import click

from holdfast.errors import Error, InvalidArgument, Unreachable
from holdfast.values import endpoints_from_environment, printable

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FINE: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
PIPE_COLUMNS: Final = 160
"""Tables in a pipe are not folded to a width nobody has."""
DIGITS_MAX: Final = 12
"""Of a duration: more than any clock has seen."""
TIMEOUT_MAX_S: Final = 10.0**6
LOCAL_ROOT: Final = ".holdfast"

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None


class Usage(click.UsageError):
    """Bad usage that only shows after parsing."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go. `as_json`: one document on standard output; otherwise text for people."""

    as_json: bool = False

    def document(self, document: Json) -> None:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")

    def line(self, text: str) -> None:
        """One line of text, which may hold what others wrote: control bytes are escaped."""
        sys.stdout.write(printable(text) + "\n")

    def note(self, text: str) -> None:
        """For a person who watches; nothing a program needs."""
        if not self.as_json:
            sys.stderr.write(printable(text) + "\n")

    @property
    def interactive(self) -> bool:
        """Whether a person can answer."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    @property
    def bars(self) -> bool:
        """Whether progress bars make sense."""
        return sys.stderr.isatty() and not self.as_json

    def console(self, *, stderr: bool = False) -> Console:
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_COLUMNS)


def run(command: click.Command, arguments: Sequence[str] | None, *, program: str) -> int:
    """Runs a command line; every failure becomes a line on standard error and an exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        with _cleaning_up():
            result = command.main(args=given, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_FINE
    except _TerminatedError as ended:
        _tell("terminated\n")
        return 128 + ended.number
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        _tell("interrupted\n")
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show(sys.stderr)
        return EXIT_USAGE
    except Error as error:
        return _report(error, program, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains, too
        return EXIT_PIPE
    except OSError as error:
        _tell(f"{program}: {printable(str(error))}\n")
        return EXIT_REFUSED
    except Exception as error:  # noqa: BLE001  # the last resort: a person gets a sentence, not a traceback
        return _unforeseen(error, program, given)


def _tell(text: str) -> None:
    """If anybody is there to read it: a terminal that has hung up takes nothing any more, and the status counts."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)


class _TerminatedError(BaseException):
    """Not an Exception: whoever cleans up after an interrupt does so after this."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _cleaning_up() -> Generator[None, None, None]:
    """SIGTERM and SIGHUP leave no more behind than an interrupt does: no half a file. A second one ends at once."""

    def end(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise _TerminatedError(number)

    handled = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def status_of(error: Error) -> int:
    if isinstance(error, Unreachable):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_REFUSED


def error_document(error: Error) -> Json:
    return {
        "error": {
            "kind": type(error).__name__,
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "evidence": [{"who": item.who, "said": item.said} for item in error.evidence],
        }
    }


def endpoints(option: str | None, root: str | None = None) -> str:
    """Where the cluster is: the option, the environment, or the local cluster in the directory."""
    if option:
        return option
    if root is None and endpoints_from_environment():
        return endpoints_from_environment()
    from pathlib import Path

    from holdfast.testing.layout import CONFIG_NAME, read

    config = Path(root or LOCAL_ROOT) / CONFIG_NAME
    if root is not None or config.exists():
        return ",".join(read(config).endpoints)
    raise Usage(
        "where is the cluster? Give --endpoints host:port,..., set HOLDFAST_ENDPOINTS, or start a local one with "
        "`clusterctl local up`"
    )


def waiting_time(text: str) -> float:
    """Of an option: some seconds, and not for ever."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= TIMEOUT_MAX_S:  # nor is anything with what is no number
        raise click.BadParameter(f"{text!r} is no time to wait; write seconds, at most {TIMEOUT_MAX_S:.0f}")
    return seconds


def size_text(size: int) -> str:
    """1536 -> 1.5 KiB."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def seconds(text: str) -> int:
    """90, 90s, 15m, 24h, 7d -> seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    factor = units.get(text[-1:], 1)
    digits = text[:-1] if text[-1:] in units else text
    if not digits.isdecimal() or len(digits) > DIGITS_MAX:
        raise Usage(f"{text!r} is not a duration; write 90s, 15m, 24h or 7d")
    return int(digits) * factor


def size(text: str) -> int:
    """1048576, 512KiB, 10MiB, 1GiB, 2TiB -> bytes."""
    number, unit = text, 1
    for power, name in enumerate(("KiB", "MiB", "GiB", "TiB"), 1):
        if text.endswith(name):
            number, unit = text.removesuffix(name), 1024**power
    if not number.isdecimal() or len(number) > DIGITS_MAX:
        raise Usage(f"{text!r} is not a size; write 1048576, 512KiB, 10MiB, 1GiB or 2TiB")
    return int(number) * unit


def _report(error: Error, program: str, *, as_json: bool) -> int:
    if as_json:
        _tell(json.dumps(error_document(error)) + "\n")
        return status_of(error)
    lines = [f"{program}: {printable(error.message)}"]
    lines += [f"  {printable(str(item))}" for item in error.evidence]
    if error.hint:
        lines.append(f"  -> {printable(error.hint)}")
    _tell("\n".join(lines) + "\n")
    return status_of(error)


def _unforeseen(error: Exception, program: str, given: Sequence[str]) -> int:
    """Whether an argument must be UTF-8 depends on its use, and only shows where it is put into a message."""
    if isinstance(error, UnicodeEncodeError) and any(error.object in argument for argument in given):
        refusal = InvalidArgument(
            f"{error.object!r} is not UTF-8", hint="only keys and files may have such names"
        )
        return _report(refusal, program, as_json="--json" in given)
    if os.environ.get("HOLDFAST_DEBUG"):
        import traceback

        traceback.print_exc()
    said = printable(f"{type(error).__name__}: {error}")
    _tell(
        f"{program}: a mistake of this program: {said}\n  -> HOLDFAST_DEBUG=1 shows where; please report it\n"
    )
    return EXIT_REFUSED
