"""A plan: all handlers of one (class, event name) as one generated function, for buses without a store.

The function calls each handler with what it asked for, on a line of its own. The event object is made only if
a handler takes it. Handlers of the transaction phase propagate what they raise; later ones are isolated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any, Literal

from earnorm import telemetry
from earnorm.binding import (
    RESERVED,
    Binding,
    Context,
    Moment,
    Source,
    arguments_text,
    compile_call,
    new_value,
    old_value,
    refuse_reserved,
)
from earnorm.declared import payload_of, version_of
from earnorm.errors import EventLoopError, MissingPayload, StopPropagation, SyncDoorInCoroutine
from earnorm.event import NO_PAYLOAD, Event, Origin
from earnorm.handle import SeenEvent, UnseenHandle
from earnorm.handler import Handler, Phase
from earnorm.portal import wait_for
from earnorm.tenant import _first as _tenants
from earnorm.tenant import _tenant

__all__ = ["Plan", "Step", "compile_plan", "noted", "rescue"]

_FILE = "<earnorm plan of {}>"


@dataclass(frozen=True, slots=True)
class Step:
    """One handler of a plan with its arguments and its condition."""

    handler: Handler
    binding: Binding
    when: Callable[..., Any] | None = None


Lone = Callable[[Any], Any] | Literal[False] | None
"""The one handler of a plan, if it takes the subject and nothing else; False if there is none; None of other plans."""

Plan = tuple[Lone, Callable[..., Any]]
"""What an emit calls: its second, or the first instead where no payload is given, since the call of a generated
function would cost as much as all that it does. A plain tuple, which is taken apart in no time."""


def compile_plan(
    name: str,
    steps: Sequence[Step],
    *,
    declared: bool = False,
    alone: bool = False,
    awaited: bool = False,
) -> Plan:
    """Generate `run(s, p)`: subject and payload (a mapping; for a declared event the object itself) to a Handle.

    For a declared event `alone`, without a subject, it is `run(s)`. With `awaited` it is a coroutine function.
    """
    run = _Writer(name, steps, declared=declared, alone=alone, awaited=awaited).compile()
    return (None if awaited else _lone(steps)), run


def rescue(run: Any, subject: Any) -> None:
    """What the plan `run` does about the error being handled, of its lone handler, which was called without it."""
    # Asked for here: a name for it in `emit` would be one more that every emit has to clear.
    run.__globals__["rescue"](sys.exception(), subject)


def _lone(steps: Sequence[Step]) -> Lone:
    if len(steps) != 1:
        return None if steps else False
    function, arguments = steps[0].handler.function, steps[0].binding.arguments
    if not isinstance(function, FunctionType) or steps[0].handler.is_async or steps[0].when is not None:
        return None
    is_enough = len(arguments) == 1 and arguments[0].source is Source.SUBJECT and not arguments[0].keyword
    return function if is_enough else None


class _Writer:
    """Writes the source of one plan."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        declared: bool,
        alone: bool,
        awaited: bool,
    ) -> None:
        self.name = name
        self.steps = steps
        self.awaited = awaited
        self.inlined = declared and all(_inlinable(step) for step in steps)
        self.declared = declared
        self.alone = alone
        # What stands behind the subject; a declared event without one is the subject.
        self.given = ("s" if alone else "o") if declared else "p"
        self.required = sorted(frozenset[str]().union(*(step.binding.required for step in steps)))
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "Context": Context,
            "Moment": Moment,
            "RESERVED": RESERVED,
            "SeenEvent": SeenEvent,
            "StopPropagation": StopPropagation,
            "event_name": name,
            "event_for": _event_for,
            "failed": self._failed,
            "missing": self._missing,
            "new_value": new_value,
            "noted": self._noted,
            "old_value": old_value,
            "payload_of": payload_of,
            "refuse_reserved": refuse_reserved,
            "rescue": self._rescue_lone,
            "tenant": _tenant.get,  # itself, with no function around it: this is the hot path
            "tenants": _tenants,
            "UnseenHandle": UnseenHandle,
            "wait": wait_for,
        }

    def compile(self) -> Callable[[Any, Any], Any]:
        self._head()
        for phase in (Phase.TRANSACTION, Phase.AFTER_COMMIT):
            numbered = [(i, s) for i, s in enumerate(self.steps) if _in_process(s.handler.phase) is phase]
            self._phase(numbered)
        self.lines.append("    return e" if self._wants_event else "    return UnseenHandle()")
        source = "\n".join(self.lines)
        # The text is made of parameter names, which the compiler has accepted as identifiers already.
        exec(compile(source, _FILE.format(self.name), "exec"), self.names)  # noqa: S102  see above
        return self.names["run"]  # type: ignore[no-any-return]  # what exec defined

    @property
    def _wants_event(self) -> bool:
        sources = (Source.EVENT, Source.CHANGES, Source.OLD, Source.NEW, Source.CONTEXT)
        return any(step.binding.uses(*sources) or step.when is not None for step in self.steps)

    def _head(self) -> None:
        colour = "async def" if self.awaited else "def"
        self.lines.append(f"{colour} run({'s' if self.alone else f's, {self.given}'}):")
        if self.declared and not self.inlined:
            self.lines.append(f"    p = payload_of({self.given})")
        self._take_keys()
        if any(step.binding.uses(Source.CREATED, Source.DECLARED, Source.SESSION) or step.when for step in self.steps):
            self.lines.append(f"    m = Moment(None, False, {self.given if self.declared else 'None'})")
        if self._wants_event:
            payload = f"payload_of({self.given})" if self.inlined else "{**p}" if self._reads_after_others() else "p"
            made = f"(event_name, s, {payload})"
            # The usual one is made without a call of ours around it.
            usual = f"SeenEvent{made} if not tenants or tenant() is None else " if version_of(self.name) == 1 else ""
            self.lines.append(f"    e = {usual}event_for{made}")

    def _reads_after_others(self) -> bool:
        """Whether a handler is given of the payload what another one, which has the event, could have written there.

        Not what it requires, which is taken before the first one runs.
        """
        writers = [step for step in self.steps if step.when or step.binding.uses(Source.EVENT, Source.CONTEXT)]
        readers = [step for step in self.steps if step.when or _reads_late(step.binding)]
        return any(reader is not writer for reader in readers for writer in writers)

    def _take_keys(self) -> None:
        """All keys are looked up before the first handler runs: a missing one starts nothing.

        A payload of just these keys holds no reserved one, since no handler can require those.
        """
        if self.inlined:
            self.lines += [f"    k{i} = {self.given}.{key}" for i, key in enumerate(self.required)]
            return
        if self.required:
            taken = "; ".join(f"k{i} = p[{key!r}]" for i, key in enumerate(self.required))
            self.lines += [f"    try: {taken}", "    except KeyError: raise missing(p) from None"]
        if not self.declared:
            beyond = f"len(p) != {len(self.required)}" if self.required else "p"
            self.lines.append(f"    if {beyond} and not RESERVED.isdisjoint(p): refuse_reserved(event_name, p)")

    def _phase(self, numbered: list[tuple[int, Step]]) -> None:
        if not numbered:
            return
        self.lines.append("    try:")
        for i, step in numbered:
            self._step(i, step, last=step is numbered[-1][1])
        self.lines.append("    except StopPropagation: pass")

    def _step(self, i: int, step: Step, *, last: bool) -> None:
        indent = " " * 8
        self._bind_target(i, step)
        if isinstance(self.names[f"h{i}"], WeakTarget):
            self.lines.append(f"{indent}f{i} = h{i}.get()")
            self.lines.append(f"{indent}if f{i} is not None:")
            indent += " " * 4
        if step.when is not None:
            self.lines.append(f"{indent}if w{i}(s, p, e, m):")
            indent += " " * 4
        self.lines.append(f"{indent}try: {self._call(i, step)}")
        self.lines.append(f"{indent}except Exception as x: {self._rescue(i, step)}")
        if step.binding.uses(Source.EVENT) and not last:
            self.lines.append(f"{indent}if e._stopped: raise StopPropagation")

    def _bind_target(self, i: int, step: Step) -> None:
        handler = step.handler
        weak = handler.function is not handler.target
        self.names[f"h{i}"] = WeakTarget(handler) if weak else handler.function
        if step.when is not None:
            self.names[f"w{i}"] = step.when

    def _call(self, i: int, step: Step) -> str:
        text, defaults = arguments_text(step.binding, f"a{i}_")
        text = text.replace("m.declared", self.given) if self.declared else text
        for number, key in enumerate(self.required):
            text = text.replace(f"p[{key!r}]", f"k{number}")
        self.names.update(defaults)
        self.names[f"a{i}_handler_name"] = step.handler.name
        target = f"f{i}" if isinstance(self.names[f"h{i}"], WeakTarget) else f"h{i}"
        call = f"{target}({text})"
        if not step.handler.is_async:
            return call
        return f"await {call}" if self.awaited else f"wait({call})"

    def _rescue(self, i: int, step: Step) -> str:
        if _in_process(step.handler.phase) is Phase.TRANSACTION:
            return f"raise noted({i}, x)"
        return f"failed({i}, x, s, {'e' if self._wants_event else 'None'})"

    # --- called from generated code ----------------------------------------------------------

    def _missing(self, payload: Mapping[str, Any]) -> MissingPayload:
        if not self.declared:
            refuse_reserved(self.name, payload)
        key = next(key for key in self.required if key not in payload)
        taker = next(step.handler.name for step in self.steps if key in step.binding.required)
        return MissingPayload(self.name, key, taker, payload)

    def _noted(self, i: int, error: Exception) -> Exception:
        if isinstance(error, RecursionError):
            return _loop(error)
        return noted(error, self.steps[i].handler, self.name)

    def _rescue_lone(self, error: Exception, subject: Any) -> None:
        if isinstance(error, StopPropagation):
            return
        if _in_process(self.steps[0].handler.phase) is Phase.TRANSACTION:
            raise self._noted(0, error)
        self._failed(0, error, subject, None)

    def _failed(self, i: int, error: Exception, subject: Any, event: Event | None) -> None:
        if isinstance(error, RecursionError):
            raise _loop(error) from None
        if isinstance(error, (StopPropagation, EventLoopError, SyncDoorInCoroutine)):
            raise error
        event = event if event is not None else _event_for(self.name, subject)
        telemetry.tell(telemetry.HandlerFailed(event, self.steps[i].handler.name, error))


class WeakTarget:
    """A bound method whose object may go at any time."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def get(self) -> Callable[..., Any] | None:
        return self._handler.target


def _event_for(name: str, subject: Any, payload: Mapping[str, Any] = NO_PAYLOAD) -> SeenEvent:
    """The event, on behalf of the tenant of here."""
    return SeenEvent(name, subject, payload, origin=Origin(tenant=_tenant.get(), version=version_of(name)))


def _in_process(phase: Phase) -> Phase:
    return Phase.TRANSACTION if phase is Phase.TRANSACTION else Phase.AFTER_COMMIT


def _inlinable(step: Step) -> bool:
    return step.when is None and not _reads_late(step.binding)


def _reads_late(binding: Binding) -> bool:
    """Whether it takes of the payload what may be absent, and so looks for it when its turn comes."""
    return any(argument.optional or argument.source is Source.REST for argument in binding.arguments)


def noted(error: Exception, handler: Handler, event: str) -> Exception:
    """The error with a note that names handler and event, added once."""
    note = f"raised in {handler.name} ({handler.source}) while handling {event}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    return error


def _loop(error: RecursionError) -> EventLoopError:
    """Handlers that emit each other for ever, told by the plans and emits on the stack."""
    names: list[str] = []
    frame = error.__traceback__.tb_frame if error.__traceback__ is not None else None
    while frame is not None and len(names) < 8:
        if (name := _told_by(frame)) is not None:
            names.append(name)
        frame = frame.f_back
    return EventLoopError("handlers emit each other without end", names[::-1])


def _told_by(frame: FrameType) -> str | None:
    """The event whose handlers a frame calls, that of a plan or of an emit that has a lone handler."""
    code, here = frame.f_code, frame.f_locals
    if frame.f_globals.get("__name__") == "earnorm.bus" and here.get("lone") and not here["payload"]:
        code = here["run"].__code__
    start, end = _FILE.split("{}")
    return code.co_filename.removeprefix(start).removesuffix(end) if code.co_filename.startswith(start) else None


def when_call(handler: Handler, bound: Binding) -> Callable[..., Any] | None:
    """The handler's condition as `when(s, p, e, m)`, or None if it has none."""
    condition = handler.options.when
    return None if condition is None else compile_call(condition, bound, f"{handler.name} when")
