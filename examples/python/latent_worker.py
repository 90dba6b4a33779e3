"""Latent workers from Python: the C ABI of latent-worker, through ctypes alone.

One file, no package: put it beside your program. The shared library is the one that ``LATENT_WORKER_LIBRARY`` names, or
``liblatent_worker.so`` beside this file, or wherever the system finds it.

    with Master() as master:
        master.add_local("local-1")
        with master.submit(Build("hello")).wait() as lease:
            print(lease.run("echo hello from $(pwd)").out.decode())

Everything that is made here is freed by ``close()``, by leaving its ``with``, or by the garbage collector; the order
does not matter. Methods that block let other threads of Python run. Times are in seconds, and ``None`` is no limit.

Signals interrupt every method that blocks: Python runs their handlers in the main thread within 100 ms, and Ctrl-C
raises ``KeyboardInterrupt``. Nothing is lost then: call the method again, and it goes on. An interrupted ``run`` kills
its command; an interrupted ``put``, ``get`` or ``insubstantiate`` goes on in the background.

Workers can be written in Python: see :class:`Driver`, and :class:`Agent` for how their builds run commands. An
exception in one of their methods is a failure with its text, and never leaves it.

After a fork every call raises :class:`Forked`. When the interpreter ends, masters that are still open are shut down,
for ``EXIT_PATIENCE`` seconds (5) at most; a driver or an agent in Python is not called any more after that, and what it
is in the middle of counts as failed.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import ctypes
import ctypes.util
import enum
import json
import itertools
import os
import queue
import sys
import threading
import time
import traceback
import weakref
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int, c_int32, c_size_t, c_uint8, c_uint32
from ctypes import c_uint64, c_void_p
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar, Union

__all__ = [
    "Agent", "AgentCommand", "AgentProcess", "Attachment", "Attempt", "Build", "BuildFailed", "Cancelled",
    "CannotSubstantiate", "Driver", "Ended", "Error", "Event", "Events", "Exit", "FailedToSubstantiate", "Finished",
    "Forked", "Hurried", "Inbox", "Lease", "LeaseEnded", "Leftover", "LocalKind", "Master", "Output", "Pending", "Process",
    "ShutDown", "Start", "Stop", "Ticket", "TimedOut", "Unsupported", "Worker", "has_feature",
]

ABI_VERSION = 1
FOREVER = 2**64 - 1
EXIT_PATIENCE = 5.0
# How long the main thread is in the library at most before it looks for signals, in seconds.
_SLICE = 0.05


# Errors.


class Error(Exception):
    """What the library could not do, in its own words. ``code`` is the number that the C ABI has for it."""

    code = 0


class Forked(Error):
    """This process was forked from one that uses the library."""


class TimedOut(Error, TimeoutError):
    """The time given to wait is over; everything is as it was."""


class Ended(Error):
    """Nothing more is to come, or there is no such thing (any more)."""


class ShutDown(Error):
    """The master is shutting down."""


class Cancelled(Error):
    """The build, or the start that a driver is in, was cancelled."""


class Hurried(Error):
    """The stop that a driver is in is a fast one, or has become one: end the instance without more grace."""


class Unsupported(Error):
    """This build of the library, or this kind of agent, cannot do that. From a driver's method: it has no means."""


class BuildFailed(Error):
    """The build has no lease and will get none: nobody can take it, or every attempt failed."""


class LeaseEnded(Error):
    """The lease has ended before it was given back."""


class CannotSubstantiate(BuildFailed):
    """The build asks for what can never be. From a driver's start: the build ends with that."""


class FailedToSubstantiate(Error):
    """From a driver's start: it did not work, for this cause: "infrastructure", "capacity", "quota", "throttled" or
    "credentials". ``retry_after`` is the provider's hint, in seconds."""

    def __init__(self, reason: str, cause: str = "infrastructure", retry_after: Optional[float] = None) -> None:
        super().__init__(reason)
        self.cause = cause
        self.retry_after = retry_after


class Pending(Error):
    """From a driver's reclaim: nothing is there now, but something may still come."""


_FORKED, _TIMED_OUT = 3, 5
_ERRORS = {
    _FORKED: Forked, _TIMED_OUT: TimedOut, 6: Unsupported, 10: ShutDown, 11: Cancelled, 12: BuildFailed,
    13: CannotSubstantiate, 14: BuildFailed, 15: Ended, 16: LeaseEnded, 17: LeaseEnded, 21: Hurried,
}


# The C ABI. Structures are those of latent_worker.h, field by field.


class _Sized(Structure):
    """A structure that says how large it is, and is zero otherwise."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.size = ctypes.sizeof(self)


class _Property(Structure):
    _fields_ = [("name", c_char_p), ("value", c_char_p)]


class _Build(_Sized):
    _fields_ = [
        ("size", c_size_t), ("name", c_char_p), ("properties", POINTER(_Property)), ("property_count", c_size_t),
        ("labels", POINTER(c_char_p)), ("label_count", c_size_t), ("priority", c_int32), ("max_attempts", c_uint32),
    ]


class _WorkerOptions(_Sized):
    _fields_ = [
        ("size", c_size_t), ("name", c_char_p), ("labels", POINTER(c_char_p)), ("label_count", c_size_t),
        ("max_builds", c_size_t), ("idle", c_int32), ("reserved", c_int32), ("idle_ms", c_uint64),
        ("missing_timeout_ms", c_uint64), ("check_interval_ms", c_uint64),
    ]


class _StartRequest(Structure):
    _fields_ = [
        ("size", c_size_t), ("worker", c_char_p), ("epoch", c_uint64), ("key", c_char_p), ("owner", c_char_p),
        ("secret", c_char_p), ("agent_address", c_char_p), ("build_name", c_char_p), ("properties", POINTER(_Property)),
        ("property_count", c_size_t),
    ]


class _StopRequest(Structure):
    _fields_ = [
        ("size", c_size_t), ("worker", c_char_p), ("epoch", c_uint64), ("key", c_char_p), ("owner", c_char_p),
        ("instance", c_void_p), ("has_instance", c_bool), ("fast", c_bool),
    ]


class _Leftover(Structure):
    _fields_ = [
        ("size", c_size_t), ("worker", c_char_p), ("epoch", c_uint64), ("key", c_char_p), ("owner", c_char_p),
        ("ids", POINTER(c_char_p)), ("id_count", c_size_t), ("stage", c_int32), ("age_ms", c_uint64),
    ]


_Release = ctypes.CFUNCTYPE(None, c_void_p)
_StartCall = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, POINTER(_StartRequest), POINTER(c_void_p))
_StopCall = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, POINTER(_StopRequest))
_CheckCall = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p)
_CompatibleCall = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, POINTER(_Property), c_size_t)
_ReclaimCall = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, POINTER(_Leftover))
_KindCall = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(_Property), c_size_t)


class _Driver(_Sized):
    _fields_ = [
        ("size", c_size_t), ("context", c_void_p), ("release", _Release), ("start", _StartCall), ("stop", _StopCall),
        ("check", _CheckCall), ("compatible", _CompatibleCall), ("reclaim", _ReclaimCall),
        ("attached_check_interval_ms", c_uint64), ("kind", _KindCall),
    ]


class _Event(Structure):
    _fields_ = [
        ("size", c_size_t), ("sequence", c_uint64), ("missed", c_uint64), ("at_ns", c_uint64), ("kind", c_char_p),
        ("worker", c_char_p), ("epoch", c_uint64), ("build", c_uint64), ("reason", c_char_p), ("text", c_char_p),
        ("result", c_char_p),
    ]


class _LocalKind(_Sized):
    _fields_ = [
        ("size", c_size_t), ("name", c_char_p), ("template_directory", c_char_p), ("environment", POINTER(_Property)),
        ("environment_count", c_size_t),
    ]


class _LocalOptions(_Sized):
    _fields_ = [
        ("size", c_size_t), ("root", c_char_p), ("kind_property", c_char_p), ("kinds", POINTER(POINTER(_LocalKind))),
        ("kind_count", c_size_t),
    ]


class _CommandOptions(_Sized):
    _fields_ = [
        ("size", c_size_t), ("start", POINTER(c_char_p)), ("start_count", c_size_t), ("stop", POINTER(c_char_p)),
        ("stop_count", c_size_t), ("check", POINTER(c_char_p)), ("check_count", c_size_t),
        ("reclaim", POINTER(c_char_p)), ("reclaim_count", c_size_t), ("compatible_by", POINTER(c_char_p)),
        ("compatible_by_count", c_size_t), ("grace_ms", c_uint64), ("stop_limit_ms", c_uint64),
        ("check_limit_ms", c_uint64), ("secret_in_file", c_int32), ("reserved", c_int32),
    ]


class _ProcessOptions(_Sized):
    _fields_ = [
        ("size", c_size_t), ("agent", POINTER(c_char_p)), ("agent_count", c_size_t),
        ("compatible_by", POINTER(c_char_p)), ("compatible_by_count", c_size_t), ("grace_ms", c_uint64),
        ("secret_in_file", c_int32), ("private_directory", c_int32),
    ]


class _LeaseInfo(Structure):
    _fields_ = [
        ("size", c_size_t), ("build", c_uint64), ("build_name", c_char_p), ("worker", c_char_p), ("epoch", c_uint64),
    ]


class _Command(_Sized):
    _fields_ = [
        ("size", c_size_t), ("shell", c_char_p), ("arguments", POINTER(c_char_p)), ("argument_count", c_size_t),
        ("directory", c_char_p), ("environment", POINTER(_Property)), ("environment_count", c_size_t),
        ("input", POINTER(c_uint8)), ("input_length", c_size_t), ("time_limit_ms", c_uint64),
        ("silence_limit_ms", c_uint64), ("keep_output", c_size_t),
    ]


_CloseCall = ctypes.CFUNCTYPE(None, c_void_p)
_StartCommandCall = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(_Command), c_void_p)
_InterruptCall = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


class _Agent(_Sized):
    _fields_ = [
        ("size", c_size_t), ("context", c_void_p), ("release", _Release), ("close", _CloseCall),
        ("start_command", _StartCommandCall), ("interrupt", _InterruptCall),
    ]


class _Finished(Structure):
    _fields_ = [
        ("size", c_size_t), ("exit", c_int32), ("code", c_int32), ("elapsed_ms", c_uint64), ("out", POINTER(c_uint8)),
        ("out_length", c_size_t), ("err", POINTER(c_uint8)), ("err_length", c_size_t), ("dropped", c_uint64),
    ]


class _Output(_Sized):
    _fields_ = [
        ("size", c_size_t), ("stream", c_int32), ("exit", c_int32), ("length", c_size_t), ("code", c_int32),
        ("reserved", c_int32), ("elapsed_ms", c_uint64),
    ]


class _MasterOptions(_Sized):
    _fields_ = [
        ("size", c_size_t), ("journal", c_char_p), ("listen", c_char_p), ("agent_address", c_char_p),
        ("tls_certificates", c_char_p), ("tls_key", c_char_p), ("drop_timeout_ms", c_uint64),
        ("heartbeat_interval_ms", c_uint64), ("heartbeat_timeout_ms", c_uint64), ("handshake_timeout_ms", c_uint64),
        ("write_timeout_ms", c_uint64), ("patience", c_double), ("minimum_patience_ms", c_uint64),
        ("ageing_ms", c_uint64), ("retry_pause_ms", c_uint64), ("longest_retry_pause_ms", c_uint64),
        ("claim_timeout_ms", c_uint64), ("reattach_timeout_ms", c_uint64), ("max_attempts", c_uint32),
    ]


class _Report(Structure):
    _fields_ = [("size", c_size_t), ("complete", c_bool), ("text", c_char_p), ("json", c_char_p)]


_P = c_void_p
_FUNCTIONS: Dict[str, List[Any]] = {
    "lw_abi_version": [POINTER(c_uint32)],
    "lw_free": [_P],
    "lw_live": [POINTER(c_size_t), POINTER(c_size_t)],
    "lw_has_feature": [c_char_p, POINTER(c_int)],
    "lw_set_reason": [c_char_p],
    "lw_set_kind": [c_char_p],
    "lw_master_new": [POINTER(_MasterOptions), POINTER(_P)],
    "lw_master_free": [_P],
    "lw_master_address": [_P, POINTER(_P)],
    "lw_master_status": [_P, POINTER(_P)],
    "lw_master_forget_leftover": [_P, c_char_p],
    "lw_master_shutdown": [_P, c_int, c_uint64, POINTER(_P)],
    "lw_master_cancel": [_P, c_uint64],
    "lw_master_build_status": [_P, c_uint64, POINTER(_P)],
    "lw_master_queue": [_P, c_char_p, c_size_t, POINTER(_P)],
    "lw_master_worker": [_P, c_char_p, POINTER(_P)],
    "lw_master_submit": [_P, POINTER(_Build), POINTER(_P)],
    "lw_master_submit_to": [_P, POINTER(_Build), _P, POINTER(c_uint64)],
    "lw_master_add_driver": [_P, POINTER(_WorkerOptions), POINTER(_Driver), POINTER(_P)],
    "lw_master_add_local": [_P, POINTER(_WorkerOptions), POINTER(_LocalOptions), POINTER(_P)],
    "lw_master_add_command": [_P, POINTER(_WorkerOptions), POINTER(_CommandOptions), POINTER(_P)],
    "lw_master_add_process": [_P, POINTER(_WorkerOptions), POINTER(_ProcessOptions), POINTER(_P)],
    "lw_master_add_docker": [_P, POINTER(_WorkerOptions), c_char_p, POINTER(_P)],
    "lw_master_add_ec2": [_P, POINTER(_WorkerOptions), c_char_p, POINTER(_P)],
    "lw_master_events": [_P, c_size_t, POINTER(_P)],
    "lw_events_take": [_P, c_uint64, POINTER(_P)],
    "lw_events_fd": [_P, POINTER(c_int)],
    "lw_events_free": [_P],
    "lw_worker_status": [_P, POINTER(_P)],
    "lw_worker_pause": [_P],
    "lw_worker_unpause": [_P],
    "lw_worker_insubstantiate": [_P, c_int, c_uint64],
    "lw_worker_free": [_P],
    "lw_ticket_build": [_P, POINTER(c_uint64)],
    "lw_ticket_wait": [_P, c_uint64, POINTER(_P)],
    "lw_ticket_cancel": [_P],
    "lw_ticket_free": [_P],
    "lw_inbox_new": [POINTER(_P)],
    "lw_inbox_take": [_P, c_uint64, POINTER(c_uint64), POINTER(_P)],
    "lw_inbox_fd": [_P, POINTER(c_int)],
    "lw_inbox_free": [_P],
    "lw_lease_get_info": [_P, POINTER(_P)],
    "lw_lease_agent": [_P, POINTER(_P)],
    "lw_lease_wait_end": [_P, c_uint64],
    "lw_lease_run": [_P, POINTER(_Command), POINTER(_P)],
    "lw_lease_start": [_P, POINTER(_Command), POINTER(_P)],
    "lw_lease_write_file": [_P, c_char_p, c_char_p, c_uint32],
    "lw_lease_read_file": [_P, c_char_p, c_char_p],
    "lw_lease_finish": [_P, c_int, c_char_p],
    "lw_lease_retry": [_P, c_char_p],
    "lw_lease_retire": [_P, c_char_p],
    "lw_lease_free": [_P],
    "lw_running_read": [_P, c_uint64, _P, c_size_t, POINTER(_Output)],
    "lw_running_interrupt": [_P],
    "lw_running_free": [_P],
    "lw_start_cancelled": [_P, POINTER(c_bool)],
    "lw_start_sleep": [_P, c_uint64],
    "lw_start_record": [_P, c_char_p],
    "lw_start_progress": [_P, c_char_p],
    "lw_start_detail": [_P, c_char_p],
    "lw_start_retry_after": [_P, c_uint64],
    "lw_start_attach": [_P, POINTER(_Agent), POINTER(_P)],
    "lw_attachment_lost": [_P, c_char_p],
    "lw_attachment_free": [_P],
    "lw_process_write": [_P, c_int, c_char_p, c_size_t],
    "lw_process_end": [_P, c_int, c_int32],
    "lw_process_fail": [_P, c_char_p],
    "lw_stop_hurried": [_P, POINTER(c_bool)],
    "lw_stop_sleep": [_P, c_uint64],
    "lw_reclaim_cancelled": [_P, POINTER(c_bool)],
    "lw_reclaim_sleep": [_P, c_uint64],
}


def _open_library() -> ctypes.CDLL:
    """CDLL, and not PyDLL: the interpreter's lock is let go of in every call."""
    named = os.environ.get("LATENT_WORKER_LIBRARY")
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "liblatent_worker." + suffix)
    path = named or (beside if os.path.exists(beside) else ctypes.util.find_library("latent_worker"))
    if path is None:
        raise ImportError(f"there is no {beside}, and LATENT_WORKER_LIBRARY does not name another one")
    library = ctypes.CDLL(path)
    library.lw_last_error_message.restype = c_char_p
    library.lw_last_error_message.argtypes = []
    for name, arguments in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = c_int32
        function.argtypes = arguments
    version = c_uint32()
    if library.lw_abi_version(byref(version)) != 0 or version.value != ABI_VERSION:
        raise ImportError(f"{path} has version {version.value} of the ABI, and this file is for version {ABI_VERSION}")
    return library


_library = _open_library()


def _error(code: int) -> Error:
    message = _library.lw_last_error_message() or b""
    error = _ERRORS.get(code, Error)(message.decode("utf-8", "replace") or f"code {code}")
    error.code = code
    return error


T = TypeVar("T")
P = TypeVar("P")
# What a callback comes to: an lw_answer, and why.
_Answer = Tuple[int, str]
_OK: _Answer = (0, "")
_here = threading.local()


class _Visit:
    """A call of the library to a driver or an agent. Its thread stays here, while a thread of Python runs the method.

    So that it can be sent away at the end of the interpreter, whatever the method is doing: Python ends threads that
    come back to it then, and one of the library must not be ended so. And what the method calls of the library is
    called on the library's thread, which is how the library knows that it must not wait for the method itself.
    """

    all: "Set[_Visit]" = set()
    is_over = False

    def __init__(self) -> None:
        self._jobs: "queue.SimpleQueue[Callable[[], Optional[_Answer]]]" = queue.SimpleQueue()

    def run(self, method: Callable[[], _Answer]) -> _Answer:
        """On the library's thread: until the method has an answer, or there is to be none."""
        _Visit.all.add(self)
        try:
            if _Visit.is_over:
                return _Visit._refusal()
            try:
                threading.Thread(target=self._work, args=(method,), name="latent-worker call", daemon=True).start()
            except RuntimeError:
                # There are no more threads; in CPython 3.12.0 and 3.12.1 there are none as soon as the end begins.
                return method()
            answer = None
            while answer is None:
                answer = self._jobs.get()()
            return answer
        finally:
            _Visit.all.discard(self)

    def _work(self, method: Callable[[], _Answer]) -> None:
        _here.visit = self
        answer = method()
        self._jobs.put(lambda: answer)

    def ask(self, call: Callable[[], T]) -> T:
        """On the method's thread: what the call returns on the library's thread."""
        if _Visit.is_over:
            raise Cancelled(_OVER)
        answers: "queue.SimpleQueue[T]" = queue.SimpleQueue()
        self._jobs.put(lambda: answers.put(call()))
        return answers.get()

    @staticmethod
    def _refusal() -> _Answer:
        return 1, _OVER

    @staticmethod
    def end() -> None:
        """Sends all visitors away, and whoever comes later."""
        _Visit.is_over = True
        for visit in list(_Visit.all):
            visit._jobs.put(_Visit._refusal)


_OVER = "the interpreter is ending"
# In a forked child nobody serves a visit: every call goes to the library, which says so.
os.register_at_fork(after_in_child=lambda: setattr(_here, "visit", None))


def _error_of(name: str, *arguments: Any, codes: Optional[List[int]] = None) -> Optional[Error]:
    """Calls a function of the library. Its message belongs to the thread that has called.

    ``codes`` receives the function's code, also when the handler of a signal raises right after the call.
    """
    returned: List[int] = [] if codes is None else codes

    def call() -> Optional[Error]:
        returned.clear()
        # Python runs handlers of signals between two of its own instructions, and this is only one.
        returned.extend(map(getattr(_library, name), *[(argument,) for argument in arguments]))
        code = returned[0]
        raised: Optional[BaseException] = _here.__dict__.pop("raised", None)  # see answered
        if raised is not None:
            if code != 0:
                returned.clear()
            raise raised
        return None if code == 0 else _error(code)

    visit: Optional[_Visit] = getattr(_here, "visit", None)
    return call() if visit is None else visit.ask(call)


def _handles_signals() -> bool:
    """Whether Python waits for this thread to handle signals. A driver's method is served by another thread."""
    return threading.current_thread() is threading.main_thread() and getattr(_here, "visit", None) is None


def _in_slices(timeout: Optional[float], call: Callable[[int], Optional[Error]]) -> Optional[Error]:
    """Waits with a function that has a time limit in milliseconds, so that signals are handled meanwhile."""
    limit = _ms(timeout)
    if not _handles_signals():
        return call(limit)
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _SLICE if end is None else end - time.monotonic()
        error = call(_ms(min(_SLICE, max(0.0, left))))
        if not isinstance(error, TimedOut) or (end is not None and left <= _SLICE):
            return error


def _aside(call: Callable[[], T]) -> T:
    """Makes a call that has no time limit, on another thread, so that signals are handled meanwhile.

    When the handler of a signal raises, the call goes on by itself.
    """
    if not _handles_signals():
        return call()
    answers: "queue.SimpleQueue[Callable[[], T]]" = queue.SimpleQueue()

    def answer() -> None:
        try:
            result = call()
            answers.put(lambda: result)
        except BaseException as error:
            answers.put(lambda error=error: _raise(error))  # type: ignore[misc]

    try:
        threading.Thread(target=answer, name="latent-worker wait", daemon=True).start()
    except RuntimeError:  # no more threads, as in a visit
        return call()
    while True:
        try:
            return answers.get(timeout=_SLICE)()
        except queue.Empty:
            # A signal that came to another thread does not end the wait.
            continue


def _raise(error: BaseException) -> Any:
    raise error


def _call(name: str, *arguments: Any) -> None:
    error = _error_of(name, *arguments)
    if error is not None:
        raise error


class _Place:
    """Where the library puts a handle, or something given out. It is freed with this unless somebody takes it over.

    This exists before the call: the handler of a signal may raise right after the library has put something here.
    """

    def __init__(self, free: str) -> None:
        self.free, self.it = free, c_void_p()

    @property
    def value(self) -> int:
        return self.it.value or 0

    def taken_over(self) -> None:
        self.it.value = None

    def __del__(self) -> None:
        # At the end of the interpreter everything is freed in one place.
        if self.it.value and not _Visit.is_over:
            _collect(self.free, self.it.value)


def _new(free: str, name: str, *arguments: Any) -> _Place:
    """A function whose last argument is where a handle, or something given out, is put."""
    place = _Place(free)
    _call(name, *arguments, byref(place.it))
    return place


def _is(name: str, *arguments: Any) -> bool:
    """A function whose last argument is where a yes or no is put."""
    place = c_bool()
    _call(name, *arguments, byref(place))
    return place.value


def _text_of(name: str, *arguments: Any) -> str:
    given = _new("lw_free", name, *arguments)
    return (ctypes.cast(given.value, c_char_p).value or b"").decode("utf-8", "replace")


def _bytes(text: Optional[str]) -> Optional[bytes]:
    """The library refuses a NUL by ending there, so it is refused here."""
    if text is None:
        return None
    if "\0" in text:
        raise ValueError("there is a NUL in the text")
    return text.encode("utf-8")


def _reason(text: str) -> bytes:
    """Why something failed, whatever is in that."""
    return text.replace("\0", " ").encode("utf-8", "replace")


def _str(text: Optional[bytes]) -> Optional[str]:
    return None if text is None else text.decode("utf-8", "replace")


def _ms(seconds: Optional[float]) -> int:
    """None is for ever; what is not zero is at least a millisecond."""
    if seconds is None:
        return FOREVER
    if not seconds >= 0:
        raise ValueError(f"{seconds} is no time to wait")
    return min(FOREVER - 1, max(1, int(seconds * 1000))) if seconds else 0


def _setting_ms(seconds: Optional[float]) -> int:
    """None is the library's default."""
    return 0 if seconds is None else max(1, _ms(seconds))


def _texts(items: Sequence[str]) -> Any:
    return (c_char_p * len(items))(*[_bytes(item) for item in items]) if items else None


def _pairs(items: Mapping[str, Optional[str]]) -> Any:
    if not items:
        return None
    return (_Property * len(items))(*[_Property(_bytes(name), _bytes(value)) for name, value in items.items()])


def _dict(properties: Any, count: int) -> Dict[str, str]:
    pairs = [properties[index] for index in range(count)]
    return {_str(pair.name) or "": _str(pair.value) or "" for pair in pairs}


def has_feature(name: str) -> bool:
    """Whether the shared library has a feature: "local", "command", "process", "agent", "tls", "docker" or "ec2"."""
    has = c_int()
    _call("lw_has_feature", _bytes(name), byref(has))
    return has.value != 0


class _Handle:
    """A handle, freed once."""

    _free = ""
    # All that are not freed, and how they are.
    _live: Dict[int, str] = {}

    def __init__(self, place: _Place) -> None:
        handle = self._handle = place.value
        _Handle._live[handle] = self._free
        self._finalizer = weakref.finalize(self, _collect, self._free, handle)
        # What happens at the end of the interpreter is decided in one place.
        self._finalizer.atexit = False
        place.taken_over()
        # What an interrupted call has taken, with its code and error: the next one returns that.
        self._kept: List[Tuple[Any, Optional[Error]]] = []

    def _take(self, name: str, timeout: Optional[float], places: P, *pointers: Any) -> Tuple[P, Optional[Error]]:
        """Waits with a function that takes something, which it puts into the places that the pointers lead to."""
        try:
            return self._kept.pop()
        except IndexError:
            pass
        codes: List[int] = []
        try:
            return places, _in_slices(
                timeout, lambda limit: _error_of(name, self._handle, limit, *pointers, codes=codes)
            )
        except BaseException:
            if codes and codes[0] != _TIMED_OUT:
                self._kept.append((places, _error(codes[0]) if codes[0] else None))
            raise

    def close(self) -> None:
        """Frees it. May be called again."""
        self._end(self._free)

    def _end(self, function: str, *arguments: Any) -> None:
        self._kept.clear()
        if self._finalizer.detach() is not None:
            _error_of(function, self._handle, *arguments)
            _Handle._live.pop(self._handle, None)

    def _gone(self) -> None:
        """The library has freed it."""
        self._finalizer.detach()
        _Handle._live.pop(self._handle, None)

    @property
    def closed(self) -> bool:
        """Whether it is freed."""
        return not self._finalizer.alive

    def __enter__(self: H) -> H:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


H = TypeVar("H", bound=_Handle)


def _collect(function: str, handle: int) -> None:
    """Frees what nobody has closed. The garbage collector may call this anywhere, so that nothing here may wait."""

    def free() -> None:
        getattr(_library, function)(handle)
        _Handle._live.pop(handle, None)

    if function == Master._free:
        # That waits for drivers, one of which may be what has been interrupted.
        _thread.start_new_thread(free, ())
    else:
        free()


# Builds, and what comes of them.


class Build:
    """One unit of work: what the queue and the driver need to know."""

    def __init__(
        self,
        name: str,
        properties: Optional[Mapping[str, str]] = None,
        labels: Sequence[str] = (),
        priority: int = 0,
        max_attempts: int = 0,
    ) -> None:
        self.name, self.properties, self.labels = name, dict(properties or {}), list(labels)
        self.priority, self.max_attempts = priority, max_attempts

    def __repr__(self) -> str:
        return f"Build({self.name!r}, {self.properties!r})"

    def _c(self) -> _Build:
        return _Build(
            name=_bytes(self.name), properties=_pairs(self.properties), property_count=len(self.properties),
            labels=_texts(self.labels), label_count=len(self.labels), priority=self.priority,
            max_attempts=self.max_attempts,
        )


class Exit(enum.IntEnum):
    """How a command ended; see ``lw_exit``."""

    CODE = 0
    SIGNAL = 1
    TIME_LIMIT = 2
    SILENCE_LIMIT = 3
    INTERRUPTED = 4


class Finished:
    """A command that has ended, and its output."""

    def __init__(self, exit: int, code: int, elapsed: float, out: bytes, err: bytes, dropped: int) -> None:
        self.exit, self.code, self.elapsed = Exit(exit), code, elapsed
        self.out, self.err, self.dropped = out, err, dropped

    @property
    def success(self) -> bool:
        return self.exit == Exit.CODE and self.code == 0

    def __repr__(self) -> str:
        return f"Finished({self.exit.name}, {self.code}, {self.elapsed:.3f} s)"


class Output:
    """What comes from a running command: bytes of its ``"out"`` or ``"err"``, or its ``"end"``."""

    def __init__(self, stream: str, data: bytes, end: Optional[Finished] = None) -> None:
        self.stream, self.data, self.end = stream, data, end


Command = Union[str, Sequence[str]]


def _command(
    command: Command,
    directory: Optional[str],
    env: Optional[Mapping[str, Optional[str]]],
    input: bytes,
    time_limit: Optional[float],
    silence_limit: Optional[float],
) -> _Command:
    environment = dict(env or {})
    c = _Command(
        directory=_bytes(directory), environment=_pairs(environment), environment_count=len(environment),
        input=ctypes.cast(c_char_p(input), POINTER(c_uint8)), input_length=len(input),
        time_limit_ms=_setting_ms(time_limit), silence_limit_ms=_setting_ms(silence_limit),
    )
    if isinstance(command, str):
        c.shell = _bytes(command)
    else:
        c.arguments, c.argument_count = _texts(list(command)), len(command)
    return c


class Process(_Handle):
    """A command that runs. Iterate over its :class:`Output`; leaving it before its end kills it."""

    _free = "lw_running_free"
    _BUFFER = 64 << 10

    def read(self, timeout: Optional[float] = None) -> Output:
        """Blocks until there is output, or the command has ended. After the end: :class:`Ended`."""
        places = ctypes.create_string_buffer(self._BUFFER), _Output()
        (buffer, output), error = self._take(
            "lw_running_read", timeout, places, places[0], self._BUFFER, byref(places[1])
        )
        if error is not None:
            raise error
        if output.stream == 3:
            end = Finished(output.exit, output.code, output.elapsed_ms / 1000, b"", b"", 0)
            return Output("end", b"", end)
        return Output("out" if output.stream == 1 else "err", buffer.raw[: output.length])

    def interrupt(self) -> None:
        """Kills it and what it started; the end is read as ever."""
        _call("lw_running_interrupt", self._handle)

    def __iter__(self) -> Iterator[Output]:
        while True:
            output = self.read()
            yield output
            if output.end is not None:
                return


class Lease(_Handle):
    """The right of one build to use one attached instance.

    Leaving its ``with`` says that the build succeeded, or failed when an exception leaves it.
    """

    _free = "lw_lease_free"
    _KEPT_OUTPUT = 1 << 20

    def run(
        self,
        command: Command,
        *,
        directory: Optional[str] = None,
        env: Optional[Mapping[str, Optional[str]]] = None,
        input: bytes = b"",
        time_limit: Optional[float] = None,
        silence_limit: Optional[float] = None,
        keep_output: int = 0,
    ) -> Finished:
        """Runs a line for the shell, or a program with its arguments, to its end. Blocks until then.

        Keeps the last ``keep_output`` bytes of each stream, by default 1 MiB. An interrupt kills the command.
        """
        kept, dropped = {"out": bytearray(), "err": bytearray()}, 0
        with self.start(
            command, directory=directory, env=env, input=input, time_limit=time_limit, silence_limit=silence_limit
        ) as process:
            for output in process:
                if output.end is not None:
                    end = output.end
                    continue
                tail = kept[output.stream]
                tail += output.data
                surplus = max(0, len(tail) - (keep_output or self._KEPT_OUTPUT))
                del tail[:surplus]
                dropped += surplus
        return Finished(end.exit, end.code, end.elapsed, bytes(kept["out"]), bytes(kept["err"]), dropped)

    def start(
        self,
        command: Command,
        *,
        directory: Optional[str] = None,
        env: Optional[Mapping[str, Optional[str]]] = None,
        input: bytes = b"",
        time_limit: Optional[float] = None,
        silence_limit: Optional[float] = None,
    ) -> Process:
        """Starts a command, whose output is read as it comes."""
        c = _command(command, directory, env, input, time_limit, silence_limit)
        return Process(_new(Process._free, "lw_lease_start", self._handle, byref(c)))

    def put(self, local_path: str, path: str, mode: int = 0) -> None:
        """Copies a file to the instance. Blocks until it is done."""
        arguments = self._handle, _bytes(local_path), _bytes(path), mode
        _aside(lambda: _call("lw_lease_write_file", *arguments))

    def get(self, path: str, local_path: str) -> None:
        """Copies a file of the instance here. Blocks until it is done."""
        arguments = self._handle, _bytes(path), _bytes(local_path)
        _aside(lambda: _call("lw_lease_read_file", *arguments))

    def wait_end(self, timeout: Optional[float] = None) -> None:
        """Raises :class:`LeaseEnded` or :class:`Cancelled` as soon as the lease has ended.

        :class:`TimedOut`: it has not. :class:`Ended`: another thread has given it back.
        """
        error = _in_slices(timeout, lambda limit: _error_of("lw_lease_wait_end", self._handle, limit))
        if error is not None:
            raise error

    def _info(self) -> Tuple[int, str, str, int]:
        given = _new("lw_free", "lw_lease_get_info", self._handle)
        it = ctypes.cast(given.value, POINTER(_LeaseInfo)).contents
        return it.build, _str(it.build_name) or "", _str(it.worker) or "", it.epoch

    @property
    def build(self) -> int:
        """The number of its build."""
        return self._info()[0]

    @property
    def worker(self) -> str:
        """The name of its worker."""
        return self._info()[2]

    @property
    def agent(self) -> Optional[Agent]:
        """The agent that a driver in Python has attached its instance with, if it has one."""
        try:
            context = c_void_p()
            _call("lw_lease_agent", self._handle, byref(context))
            agent: Optional[Agent] = _Table._kept.get(context.value or 0)
            return agent
        except Unsupported:
            return None

    def succeed(self) -> None:
        """The work succeeded; the place is given back."""
        self._finish(0, None)

    def fail(self, reason: str) -> None:
        """The work failed; the place is given back."""
        self._finish(1, reason)

    def _finish(self, result: int, reason: Optional[str]) -> None:
        _call("lw_lease_finish", self._handle, result, _bytes(reason))
        self._gone()

    def retry(self, reason: str) -> None:
        """Gives the place back and puts the build back into the queue; its ticket has another answer then.

        This is a failed attempt on this worker: the build pauses, and avoids the worker while another one fits it.
        """
        _call("lw_lease_retry", self._handle, _bytes(reason))
        self._gone()

    def retire(self, reason: str) -> None:
        """As ``retry``, and the instance takes no more builds because it is bad."""
        _call("lw_lease_retire", self._handle, _bytes(reason))
        self._gone()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if self.closed:
            return
        if error is None:
            self.succeed()
        else:
            self.fail(f"{kind.__name__}: {error}".replace("\0", " "))


class Ticket(_Handle):
    """The claim to the answer for one build. Freeing it cancels the build unless its lease was taken."""

    _free = "lw_ticket_free"

    @property
    def build(self) -> int:
        """The number of the build."""
        number = c_uint64()
        _call("lw_ticket_build", self._handle, byref(number))
        return number.value

    def wait(self, timeout: Optional[float] = None) -> Lease:
        """Blocks until the build has a lease.

        Otherwise: :class:`TimedOut`, :class:`Cancelled`, :class:`BuildFailed`, or :class:`Ended` after the last answer.
        """
        place = _Place(Lease._free)
        place, error = self._take("lw_ticket_wait", timeout, place, byref(place.it))
        if error is not None:
            raise error
        return Lease(place)

    def cancel(self) -> None:
        """Ends the build, wherever it is."""
        _call("lw_ticket_cancel", self._handle)


class Inbox(_Handle):
    """One place for the answers to many builds, with a file descriptor for event loops."""

    _free = "lw_inbox_free"

    def __init__(self) -> None:
        super().__init__(_new(self._free, "lw_inbox_new"))

    def take(self, timeout: Optional[float] = None) -> Tuple[int, Union[Lease, Error]]:
        """The number of a build, and its lease or why it has none. :class:`TimedOut` when there is no answer."""
        places = c_uint64(), _Place(Lease._free)
        (number, place), error = self._take("lw_inbox_take", timeout, places, byref(places[0]), byref(places[1].it))
        if error is not None and number.value == 0:
            raise error
        return number.value, (Lease(place) if error is None else error)

    def fileno(self) -> int:
        """Readable while there is something to take; now and then for nothing."""
        descriptor = c_int()
        _call("lw_inbox_fd", self._handle, byref(descriptor))
        return descriptor.value

    async def next(self) -> Tuple[int, Union[Lease, Error]]:
        """As :meth:`take`, for asyncio."""
        answer: Tuple[int, Union[Lease, Error]] = await _when_readable(self.fileno(), lambda: self.take(0))
        return answer


async def _when_readable(descriptor: int, take: Any) -> Any:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return take()
        except TimedOut:
            readable = asyncio.Event()
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)


class Event:
    """Something that happened. ``str()`` of it is a line for people; for the rest see ``lw_event``."""

    def __init__(self, it: _Event) -> None:
        self.sequence, self.missed, self.at = it.sequence, it.missed, it.at_ns / 1e9
        self.kind, self.worker, self.reason = _str(it.kind) or "", _str(it.worker), _str(it.reason)
        self.epoch, self.build = it.epoch or None, it.build or None
        # An older library does not know the last field.
        self.result = _str(it.result) if it.size >= ctypes.sizeof(_Event) else None
        self._text = _str(it.text) or ""

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<Event {self.sequence}: {self._text}>"


class Events(_Handle):
    """All events from the moment it was made. Iterate over them, also with ``async for``; they end with the master."""

    _free = "lw_events_free"

    def take(self, timeout: Optional[float] = None) -> Event:
        """Blocks until there is one."""
        place = _Place("lw_free")
        place, error = self._take("lw_events_take", timeout, place, byref(place.it))
        if error is not None:
            raise error
        return Event(ctypes.cast(place.value, POINTER(_Event)).contents)

    def fileno(self) -> int:
        """Readable while there are events; now and then for nothing."""
        descriptor = c_int()
        _call("lw_events_fd", self._handle, byref(descriptor))
        return descriptor.value

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                yield self.take()
            except Ended:
                return

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        try:
            event: Event = await _when_readable(self.fileno(), lambda: self.take(0))
        except Ended:
            raise StopAsyncIteration from None
        return event


# Drivers in Python.


class Attempt:
    """What all calls of a driver are told: which attempt of which worker it is about, and whose."""

    def __init__(self, it: Any) -> None:
        self.worker, self.epoch = _str(it.worker) or "", it.epoch
        self.key, self.owner = _str(it.key) or "", _str(it.owner) or ""


class Start(Attempt):
    """What a start is told. It is good until :meth:`Driver.start` returns."""

    def __init__(self, handle: int, it: _StartRequest, attachments: List[Attachment]) -> None:
        super().__init__(it)
        self._handle, self._attachments = handle, attachments
        self.secret, self.agent_address = _str(it.secret) or "", _str(it.agent_address)
        self.build_name, self.properties = _str(it.build_name), _dict(it.properties, it.property_count)

    def __repr__(self) -> str:
        return f"<Start of {self.worker}, attempt {self.epoch}>"

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the instance any more."""
        return _is("lw_start_cancelled", self._handle)

    def sleep(self, seconds: float) -> None:
        """Waits; raises :class:`Cancelled` as soon as the start is cancelled."""
        limit = _ms(seconds)
        _aside(lambda: _call("lw_start_sleep", self._handle, limit))

    def record(self, id: str) -> None:
        """Has an id outlive a crash; see ``lw_start_record``."""
        text = _bytes(id)
        _aside(lambda: _call("lw_start_record", self._handle, text))

    def progress(self, text: str) -> None:
        """Tells observers what the start is doing."""
        _call("lw_start_progress", self._handle, _bytes(text))

    def detail(self, text: str) -> None:
        """A short text about the instance for people."""
        _call("lw_start_detail", self._handle, _bytes(text))

    def attach(self, agent: Optional[Agent] = None) -> Attachment:
        """From now on builds may use the instance, and run commands through the agent; without one they run none.

        It is attached until the instance is stopped, or the :class:`Attachment` says that the agent is gone.
        """
        number = next(_Table._numbers)
        c = _Agent(
            context=number, release=_release, close=_close_agent, start_command=_start_command, interrupt=_interrupt
        )
        if agent is not None:
            _Table._kept[number] = agent
        try:
            given = None if agent is None else byref(c)
            it = Attachment(_new(Attachment._free, "lw_start_attach", self._handle, given))
        except BaseException:
            _Table.forget(number)
            raise
        self._attachments.append(it)
        return it


class Stop(Attempt):
    """What a stop is told. ``instance`` is what the start has returned, or ``None`` when it failed.

    ``fast`` is how the stop was when it was called; ``hurried`` says how it is now, until :meth:`Driver.stop` returns.
    """

    def __init__(self, handle: int, it: _StopRequest, instance: Any) -> None:
        super().__init__(it)
        self._handle = handle
        self.instance, self.has_instance, self.fast = instance, bool(it.has_instance), bool(it.fast)

    @property
    def hurried(self) -> bool:
        """Whether the stop is a fast one, or has become one."""
        return _is("lw_stop_hurried", self._handle)

    def sleep(self, seconds: float) -> None:
        """Waits; raises :class:`Hurried` as soon as the stop is a fast one. Catch it, and end the instance at once."""
        limit = _ms(seconds)
        _aside(lambda: _call("lw_stop_sleep", self._handle, limit))


class Leftover(Attempt):
    """An attempt that may have left something behind."""

    def __init__(self, handle: int, it: _Leftover) -> None:
        super().__init__(it)
        self._handle = handle
        self.ids = [_str(it.ids[index]) or "" for index in range(it.id_count)]
        self.stage, self.age = ("intended", "known", "stopping")[min(max(it.stage, 0), 2)], it.age_ms / 1000

    @property
    def cancelled(self) -> bool:
        """Whether the master is shutting down fast."""
        return _is("lw_reclaim_cancelled", self._handle)

    def sleep(self, seconds: float) -> None:
        """Waits; raises :class:`Cancelled` when the master shuts down."""
        limit = _ms(seconds)
        _aside(lambda: _call("lw_reclaim_sleep", self._handle, limit))


class Attachment(_Handle):
    """That an agent is attached: until its instance is stopped, whether or not anybody keeps this.

    Closing it says that the agent is gone, as :meth:`lost` does.
    """

    _free = "lw_attachment_free"

    def lost(self, reason: str) -> None:
        """The agent is gone: the lease that uses it ends as lost, and the instance is stopped. Does not block."""
        self._end("lw_attachment_lost", _bytes(reason))


class AgentCommand:
    """What an agent is to run; see ``lw_command``. A ``program`` that is a text is a line for the shell."""

    def __init__(self, it: _Command) -> None:
        arguments = [_str(it.arguments[index]) or "" for index in range(it.argument_count)]
        self.program: Union[str, List[str]] = arguments if it.shell is None else _str(it.shell) or ""
        self.directory = _str(it.directory)
        variables = [it.environment[index] for index in range(it.environment_count)]
        #: Changes to the environment; ``None`` removes a variable.
        self.env = {_str(variable.name) or "": _str(variable.value) for variable in variables}
        self.input = ctypes.string_at(it.input, it.input_length)
        self.time_limit, self.silence_limit = _limit(it.time_limit_ms), _limit(it.silence_limit_ms)

    def __repr__(self) -> str:
        return f"AgentCommand({self.program!r})"


def _limit(time_ms: int) -> Optional[float]:
    return time_ms / 1000 if time_ms else None


class AgentProcess:
    """A command that an agent runs: the other side of :class:`Process`. Its methods may be called on any thread.

    The agent must tell its end, once. One that is forgotten without that has failed.
    """

    # By their handles, for interrupts.
    _all: weakref.WeakValueDictionary[int, AgentProcess] = weakref.WeakValueDictionary()

    def __init__(self, handle: int) -> None:
        self._handle = handle
        AgentProcess._all[handle] = self
        forgotten = b"the agent has forgotten the command"
        weakref.finalize(self, _library.lw_process_fail, handle, forgotten).atexit = False

    def write(self, stream: str, data: bytes) -> None:
        """Hands over ``"out"`` or ``"err"``. Blocks while a lot of it waits to be read.

        Within ``start_command`` nobody reads yet: it takes 1 MiB there, and raises :class:`Unsupported` for more.
        :class:`Cancelled`: it was interrupted. :class:`Ended`: nobody reads any more. In both cases end it.
        """
        number = ("out", "err").index(stream) + 1
        _aside(lambda: _call("lw_process_write", self._handle, number, data, len(data)))

    def end(self, code: int = 0, exit: Exit = Exit.CODE) -> None:
        """It has ended; ``code`` is its exit code, or the number of the signal. The first end counts."""
        _error_of("lw_process_end", self._handle, exit, code)

    def fail(self, reason: str) -> None:
        """It could not be run, or it is not known how it has ended. The first end counts."""
        _error_of("lw_process_fail", self._handle, _reason(reason))


class Agent:
    """What makes an instance in Python do something: :meth:`Start.attach` takes one. One may serve many instances.

    Its methods are called on threads of their own, several at the same time. They may call anything of this module. All
    have defaults. An agent is let go of when its instance is stopped and no lease uses it any more. It has no files: a
    lease can put and get none.
    """

    def start_command(self, command: AgentCommand, process: AgentProcess) -> None:
        """Starts a command, which is to keep to its limits, and returns without waiting for its end.

        An exception: it could not be started; then nothing more is to be told about it.
        """
        raise Unsupported("this agent runs no commands")

    def interrupt(self, process: AgentProcess) -> None:
        """Kills a command, whose end must be told all the same. Perhaps more than once, and perhaps just when it has
        ended. After an exception the command counts as failed."""

    def close(self) -> None:
        """The instance is about to be stopped: end what runs. Called at most once, before :meth:`Driver.stop`.

        An exception is printed, and the stop goes on."""


class Driver:
    """A kind of worker in Python. ``start`` and ``stop`` are needed, the rest has defaults.

    For one worker its methods are called one at a time, but for ``reclaim``; for different workers at the same time.
    Each call runs on a thread of its own. Each start is followed by exactly one stop. They may call anything of this
    module. An exception is a failure with its text; :class:`CannotSubstantiate`, :class:`FailedToSubstantiate`,
    :class:`Pending` and :class:`Unsupported` say more.
    """

    #: How often an instance is checked after it has attached, in seconds, at least 1; ``None``: never. One that looks
    #: bad takes no new build.
    attached_check_interval: Optional[float] = None

    def start(self, start: Start) -> Any:
        """Brings an instance up, and returns whatever the other methods are to get."""
        raise NotImplementedError

    def stop(self, stop: Stop) -> None:
        """Stops the instance and removes all that belongs to it."""
        raise NotImplementedError

    def check(self, instance: Any) -> Optional[str]:
        """Why an instance will never do (any more), or ``None`` when it looks well."""
        return None

    def compatible(self, instance: Any, properties: Dict[str, str]) -> bool:
        """Whether the instance fits a build with these properties. Only asked when it is overridden, and ``kind`` is
        not."""
        return True

    def kind(self, properties: Dict[str, str]) -> Optional[str]:
        """The kind of instance that a build with these properties needs, as a name for people; ``None``: every set of
        properties is a kind of its own. Only asked when it is overridden.

        An instance that was started for one build serves every build of the same kind, and no other. The name should
        contain all that the driver makes of the properties (image and memory, say), but no secret. An exception: no
        instance can be made for such a build. Asked about once for each distinct set of properties, within a call such
        as :meth:`Master.submit`: it must not wait for anything, and depend on the properties alone.
        """
        return None

    def reclaim(self, leftover: Leftover) -> None:
        """Takes away what is left of an attempt, by its exact key, owner and ids. What is gone already is fine."""
        raise Unsupported("this driver cannot reclaim")


_ANSWERS = {"infrastructure": 1, "capacity": 3, "quota": 4, "throttled": 5, "credentials": 6}


class _Table:
    """The callbacks of one driver, kept until the library releases them, as agents are.

    There is no lock here: the garbage collector may have the library release a driver at any point of this.
    """

    # What the library may call, by its number: tables and agents.
    _kept: Dict[int, Any] = {}
    _numbers = itertools.count(1)
    # Something for each that is released.
    _released: "queue.SimpleQueue[None]" = queue.SimpleQueue()

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.instances: Dict[int, Any] = {}
        self.attachments: List[Attachment] = []
        self.number = next(_Table._numbers)
        self.table = _Driver(
            context=self.number, release=_release, start=_StartCall(self.start), stop=_StopCall(self.stop),
            check=_CheckCall(self.check), reclaim=_ReclaimCall(self.reclaim),
            attached_check_interval_ms=_setting_ms(driver.attached_check_interval),
        )
        if type(driver).compatible is not Driver.compatible:
            self.table.compatible = _CompatibleCall(self.compatible)
        if type(driver).kind is not Driver.kind:
            self.table.kind = _KindCall(self.kind)
        _Table._kept[self.number] = self

    @staticmethod
    def forget(number: Optional[int]) -> None:
        _Table._kept.pop(number or 0, None)
        if _Visit.is_over:
            _Table._released.put(None)

    @staticmethod
    def outcome(method: Callable[[], Optional[_Answer]], start: int = 0) -> _Answer:
        """What a method comes to, with its exceptions."""
        try:
            return method() or _OK
        except CannotSubstantiate as error:
            return 2, str(error)
        except FailedToSubstantiate as error:
            if start and error.retry_after is not None:
                _error_of("lw_start_retry_after", start, _ms(error.retry_after))
            return _ANSWERS.get(error.cause, 1), str(error)
        except Pending as error:
            return 8, str(error)
        except Unsupported as error:
            return 9, str(error)
        except BaseException as error:  # also KeyboardInterrupt and SystemExit stay within
            return 1, "".join(traceback.format_exception_only(type(error), error)).strip()

    @staticmethod
    def answered(given: Callable[[], T], method: Callable[[T], Optional[_Answer]], start: int = 0) -> int:
        """Has the method run with a copy of what the library has given. Nothing leaves this but a number.

        A copy, because at the end of the interpreter the method may go on after the library has taken that back.
        """
        try:
            copy = given()
            answer, reason = _Visit().run(lambda: _Table.outcome(lambda: method(copy), start))
            if answer != 0:
                _library.lw_set_reason(_reason(reason))
            return answer
        except BaseException as error:  # no memory, no thread: ctypes would make a success of it
            if threading.current_thread() is threading.main_thread():
                # A signal, while this waits within a call of the main thread to the library: that one raises it.
                _here.raised = error
            return 1

    def start(self, _context: Any, handle: int, request: Any, instance: Any) -> int:
        number = instance[0] = next(_Table._numbers)

        def method(start: Start) -> None:
            self.instances[number] = self.driver.start(start)

        return self.answered(lambda: Start(handle, request.contents, self.attachments), method, handle)

    def stop(self, _context: Any, handle: int, request: Any) -> int:
        def given() -> Stop:
            while self.attachments:
                self.attachments.pop().close()
            return Stop(handle, request.contents, self.instances.pop(request.contents.instance or 0, None))

        return self.answered(given, self.driver.stop)

    def check(self, _context: Any, instance: Optional[int]) -> int:
        def method(instance: Any) -> _Answer:
            trouble = self.driver.check(instance)
            return _OK if trouble is None else (1, str(trouble))

        return self.answered(lambda: self.instances.get(instance or 0), method)

    def compatible(self, _context: Any, instance: Optional[int], properties: Any, count: int) -> int:
        def method(wanted: Dict[str, str]) -> _Answer:
            return _OK if self.driver.compatible(self.instances.get(instance or 0), wanted) else (7, "")

        return self.answered(lambda: _dict(properties, count), method)

    def kind(self, _context: Any, properties: Any, count: int) -> int:
        names: List[Optional[bytes]] = []

        def method(wanted: Dict[str, str]) -> None:
            names.append(_bytes(self.driver.kind(wanted)))

        answer = self.answered(lambda: _dict(properties, count), method)
        if answer == 0 and _library.lw_set_kind(names[0]) != 0:
            return 1
        return answer

    def reclaim(self, _context: Any, handle: int, leftover: Any) -> int:
        return self.answered(lambda: Leftover(handle, leftover.contents), self.driver.reclaim)


def _start_command_of(number: int, command: Any, handle: int) -> int:
    def given() -> Tuple[Agent, AgentCommand, AgentProcess]:
        return _Table._kept[number], AgentCommand(command.contents), AgentProcess(handle)

    def method(it: Tuple[Agent, AgentCommand, AgentProcess]) -> None:
        agent, command, process = it
        agent.start_command(command, process)

    return _Table.answered(given, method)


def _interrupt_of(number: int, handle: int) -> None:
    """Waits for nothing: the garbage collector comes here with what it frees."""
    agent, process = _Table._kept.get(number), AgentProcess._all.get(handle)
    if agent is None or process is None:
        return

    def method() -> None:
        answer, reason = _Table.outcome(lambda: agent.interrupt(process))
        if answer != 0:
            process.fail(reason)

    try:
        _thread.start_new_thread(method, ())
    except RuntimeError:  # as in a visit
        method()


def _close_agent_of(number: int) -> None:
    def method(agent: Agent) -> None:
        try:
            agent.close()
        except BaseException:  # nobody waits for an answer
            traceback.print_exc()

    _Table.answered(lambda: _Table._kept[number], method)


# One for all drivers and agents: they are not freed while they run.
_release = _Release(_Table.forget)
_close_agent = _CloseCall(_close_agent_of)
_start_command = _StartCommandCall(_start_command_of)
_interrupt = _InterruptCall(_interrupt_of)


# Masters and workers.


class Worker(_Handle):
    """One worker of a master. Freeing this leaves the worker where it is."""

    _free = "lw_worker_free"

    def status(self) -> Dict[str, Any]:
        """What it is doing and why; see ``lw_worker_status``."""
        status: Dict[str, Any] = json.loads(_text_of("lw_worker_status", self._handle))
        return status

    def pause(self) -> None:
        """Takes no new builds and starts nothing until it is unpaused. Builds that run go on."""
        _call("lw_worker_pause", self._handle)

    def unpause(self) -> None:
        """Takes builds again: ends a pause and a quarantine."""
        _call("lw_worker_unpause", self._handle)

    def insubstantiate(self, fast: bool = False, timeout: Optional[float] = None) -> None:
        """Stops the instance, if there is one, and blocks until it is gone; not within a driver's method."""
        limit = _ms(timeout)
        # Not in slices: after the first one there may be another instance.
        _aside(lambda: _call("lw_worker_insubstantiate", self._handle, int(fast), limit))


class LocalKind:
    """One kind of local instances: begun as a copy of a directory, with changes to the environment of all commands."""

    def __init__(
        self, name: str, template: Optional[str] = None, env: Optional[Mapping[str, Optional[str]]] = None
    ) -> None:
        self.name, self.template, self.env = name, template, dict(env or {})

    def _c(self) -> _LocalKind:
        return _LocalKind(
            name=_bytes(self.name), template_directory=_bytes(self.template), environment=_pairs(self.env),
            environment_count=len(self.env),
        )


class Master(_Handle):
    """Workers, and the queue of builds that wait for them. Leaving its ``with`` is a fast shutdown."""

    _free = "lw_master_free"

    def __init__(
        self,
        *,
        journal: Optional[str] = None,
        listen: Optional[str] = None,
        agent_address: Optional[str] = None,
        tls_certificates: Optional[str] = None,
        tls_key: Optional[str] = None,
        drop_timeout: Optional[float] = None,
        heartbeat: Optional[Tuple[float, float]] = None,
        handshake_timeout: Optional[float] = None,
        write_timeout: Optional[float] = None,
        patience: Optional[float] = None,
        minimum_patience: Optional[float] = None,
        ageing: Optional[float] = None,
        retry_pause: Optional[Tuple[float, float]] = None,
        claim_timeout: Optional[float] = None,
        reattach_timeout: Optional[float] = None,
        max_attempts: int = 0,
    ) -> None:
        """Makes a master; see ``lw_master_options``. ``heartbeat``: how often an agent is pinged, when it is lost.
        ``retry_pause``: the first and the longest pause of a build after a failed attempt. Times are in seconds."""
        first_pause, longest_pause = retry_pause or (None, None)
        interval, lost_after = heartbeat or (None, None)
        options = _MasterOptions(
            journal=_bytes(journal), listen=_bytes(listen), agent_address=_bytes(agent_address),
            tls_certificates=_bytes(tls_certificates), tls_key=_bytes(tls_key),
            drop_timeout_ms=_setting_ms(drop_timeout),
            heartbeat_interval_ms=_setting_ms(interval), heartbeat_timeout_ms=_setting_ms(lost_after),
            handshake_timeout_ms=_setting_ms(handshake_timeout), write_timeout_ms=_setting_ms(write_timeout),
            patience=-1.0 if patience == 0 else patience or 0.0, minimum_patience_ms=_setting_ms(minimum_patience),
            ageing_ms=_setting_ms(ageing), retry_pause_ms=_setting_ms(first_pause),
            longest_retry_pause_ms=_setting_ms(longest_pause), claim_timeout_ms=_setting_ms(claim_timeout),
            reattach_timeout_ms=_setting_ms(reattach_timeout), max_attempts=max_attempts,
        )
        self._drop_timeout = 30.0 if drop_timeout is None else drop_timeout
        super().__init__(_aside(lambda: _new(self._free, "lw_master_new", byref(options))))

    @property
    def address(self) -> Optional[str]:
        """Where it listens, if it does."""
        try:
            return _text_of("lw_master_address", self._handle)
        except Ended:
            return None

    def add(self, name: str, driver: Driver, **options: Any) -> Worker:
        """Adds a worker with a driver in Python.

        Options of all workers: ``labels``, ``max_builds`` (1), ``idle`` (seconds, ``"after_build"`` or ``"never"``; 10
        minutes), ``missing_timeout`` (an hour), ``check_interval`` (10 s). See ``lw_worker_options``.
        """
        table = _Table(driver)
        try:
            return self._add("lw_master_add_driver", name, options, byref(table.table))
        except BaseException:
            _Table.forget(table.number)
            raise

    def add_local(
        self,
        name: str,
        *,
        root: Optional[str] = None,
        kinds: Sequence[LocalKind] = (),
        kind_property: Optional[str] = None,
        **options: Any,
    ) -> Worker:
        """Adds a worker on this machine: a private directory for each instance, and commands as child processes."""
        given = [ctypes.pointer(kind._c()) for kind in kinds]
        c = _LocalOptions(root=_bytes(root), kind_property=_bytes(kind_property), kind_count=len(given))
        c.kinds = (POINTER(_LocalKind) * len(given))(*given) if given else None
        return self._add("lw_master_add_local", name, options, byref(c))

    def add_command(
        self,
        name: str,
        start: Sequence[str],
        stop: Sequence[str],
        *,
        check: Sequence[str] = (),
        reclaim: Sequence[str] = (),
        compatible_by: Sequence[str] = (),
        grace: Optional[float] = None,
        stop_limit: Optional[float] = None,
        check_limit: Optional[float] = None,
        secret_in_file: bool = False,
        **options: Any,
    ) -> Worker:
        """Adds a worker whose instances are started and stopped by programs; see ``lw_command_options``."""
        c = _CommandOptions(
            start=_texts(start), start_count=len(start), stop=_texts(stop), stop_count=len(stop), check=_texts(check),
            check_count=len(check), reclaim=_texts(reclaim), reclaim_count=len(reclaim),
            compatible_by=_texts(compatible_by), compatible_by_count=len(compatible_by), grace_ms=_setting_ms(grace),
            stop_limit_ms=_setting_ms(stop_limit), check_limit_ms=_setting_ms(check_limit),
            secret_in_file=int(secret_in_file),
        )
        return self._add("lw_master_add_command", name, options, byref(c))

    def add_process(
        self,
        name: str,
        agent: Sequence[str],
        *,
        compatible_by: Sequence[str] = (),
        grace: Optional[float] = None,
        secret_in_file: bool = False,
        private_directory: bool = False,
        **options: Any,
    ) -> Worker:
        """Adds a worker whose instances are child processes that attach by themselves; see ``lw_process_options``."""
        c = _ProcessOptions(
            agent=_texts(agent), agent_count=len(agent), compatible_by=_texts(compatible_by),
            compatible_by_count=len(compatible_by), grace_ms=_setting_ms(grace), secret_in_file=int(secret_in_file),
            private_directory=int(private_directory),
        )
        return self._add("lw_master_add_process", name, options, byref(c))

    def add_docker(self, name: str, settings: Mapping[str, Any], **options: Any) -> Worker:
        """Adds a worker whose instances are containers; ``settings`` as ``lw_master_add_docker`` has them."""
        return self._add("lw_master_add_docker", name, options, _bytes(json.dumps(settings)))

    def add_ec2(self, name: str, settings: Mapping[str, Any], **options: Any) -> Worker:
        """Adds a worker whose instances are machines of EC2; ``settings`` as ``lw_master_add_ec2`` has them."""
        return self._add("lw_master_add_ec2", name, options, _bytes(json.dumps(settings)))

    def _add(self, function: str, name: str, options: Dict[str, Any], driver: Any) -> Worker:
        c = _WorkerOptions(name=_bytes(name))
        labels = list(options.pop("labels", ()))
        c.labels, c.label_count = _texts(labels), len(labels)
        c.max_builds = options.pop("max_builds", 0)
        idle = options.pop("idle", None)
        if isinstance(idle, str):
            c.idle = {"after_build": 1, "never": 2}[idle]
        else:
            c.idle_ms = _setting_ms(idle)
        c.missing_timeout_ms = _setting_ms(options.pop("missing_timeout", None))
        c.check_interval_ms = _setting_ms(options.pop("check_interval", None))
        if options:
            raise TypeError(f"a worker has no option {', '.join(options)}")
        return Worker(_new(Worker._free, function, self._handle, byref(c), driver))

    def worker(self, name: str) -> Worker:
        """The worker of this name."""
        return Worker(_new(Worker._free, "lw_master_worker", self._handle, _bytes(name)))

    def submit(self, build: Build) -> Ticket:
        """Puts a build into the queue."""
        return Ticket(_new(Ticket._free, "lw_master_submit", self._handle, byref(build._c())))

    def submit_to(self, build: Build, inbox: Inbox) -> int:
        """Puts a build into the queue whose answers go to the inbox; its number."""
        number = c_uint64()
        _call("lw_master_submit_to", self._handle, byref(build._c()), inbox._handle, byref(number))
        return number.value

    def cancel(self, build: int) -> None:
        """Ends a build, wherever it is."""
        _call("lw_master_cancel", self._handle, build)

    def build_status(self, build: int) -> Dict[str, Any]:
        """Where a build is and, while it waits, what stands in its way."""
        status: Dict[str, Any] = json.loads(_text_of("lw_master_build_status", self._handle, build))
        return status

    def queue(self, limit: int = 100, start: Optional[str] = None) -> Dict[str, Any]:
        """A page of the builds that wait; ``start`` is ``next`` of the page before."""
        page: Dict[str, Any] = json.loads(_text_of("lw_master_queue", self._handle, _bytes(start), limit))
        return page

    def status(self) -> Dict[str, Any]:
        """What every worker is doing and why, and what may have been left behind."""
        status: Dict[str, Any] = json.loads(_text_of("lw_master_status", self._handle))
        return status

    def forget_leftover(self, key: str) -> None:
        """Takes something off the list of leftovers, because somebody has looked after it."""
        text = _bytes(key)
        _aside(lambda: _call("lw_master_forget_leftover", self._handle, text))

    def events(self, capacity: int = 10_000) -> Events:
        """All events from now on."""
        return Events(_new(Events._free, "lw_master_events", self._handle, capacity))

    def shutdown(self, fast: bool = False, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Lets nothing new start, answers every build, and stops every instance; the report, as JSON has it.

        Blocks until that is done. :class:`TimedOut`: it goes on. Within a driver's method it does not block.
        """
        places: List[_Place] = []

        def call(limit: int) -> Optional[Error]:
            # Every call gives a report, also one that has timed out.
            places[:] = [_Place("lw_free")]
            return _error_of("lw_master_shutdown", self._handle, int(fast), limit, byref(places[0].it))

        error = _in_slices(timeout, call)
        if error is not None:
            raise error
        text = _str(ctypes.cast(places[0].value, POINTER(_Report)).contents.json)
        report: Dict[str, Any] = json.loads(text or "{}")
        return report

    def close(self) -> None:
        """Shuts it down fast, within ``drop_timeout`` (30 s by default), and frees it. May be called again.

        When this is interrupted the master is still open: call it again.
        """
        if self.closed:
            return
        if _handles_signals():
            try:
                self.shutdown(fast=True, timeout=self._drop_timeout)
            except TimedOut:
                # Freeing it waits once more; nobody needs to wait for that.
                _thread.start_new_thread(super().close, ())
                return
            except Error:
                pass
        # Agents on other machines may take some seconds to go.
        _aside(super().close)


@atexit.register
def _end() -> None:
    """What is open is shut down while Python still runs, and then no thread of the library comes to Python any more."""
    if _library.lw_live(byref(c_size_t()), byref(c_size_t())) == _FORKED:
        return
    masters = [handle for handle, free in list(_Handle._live.items()) if free == Master._free]

    def shut_down(patience: float) -> List[int]:
        """The masters that it has not been enough for."""
        end = time.monotonic() + patience
        left = [master for master in masters if _library.lw_master_shutdown(master, 1, 0, None) == _TIMED_OUT]
        while left and time.monotonic() < end:
            # In slices, as everywhere: Ctrl-C ends the patience.
            if _library.lw_master_shutdown(left[-1], 1, _ms(_SLICE), None) != _TIMED_OUT:
                left.pop()
        return [master for master in left if _library.lw_master_shutdown(master, 1, 0, None) == _TIMED_OUT]

    try:
        shut_down(EXIT_PATIENCE)
    finally:
        _end_visits(shut_down)


def _end_visits(shut_down: Callable[[float], List[int]]) -> None:
    _Visit.end()
    # A driver of the library itself may hang; it does not come here.
    hanging = shut_down(1.0)
    for handle, free in list(_Handle._live.items()):
        if handle not in hanging:
            getattr(_library, free)(handle)
    end = time.monotonic() + 1.0
    while _Table._kept and time.monotonic() < end:
        try:
            _Table._released.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
    # The last one still has to leave its callback.
    time.sleep(0.02)
