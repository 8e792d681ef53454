"""A staged attempt: a transactional handler run on a stage, so that what it wrote stays only if it is done."""

from __future__ import annotations

import threading
from contextvars import Context

from earnorm.delivery import Done, Outcome
from earnorm.errors import HandlerTimedOut
from earnorm.portal import await_here
from earnorm.runner import Runner, tell_refused
from earnorm.stage import Stage
from earnorm.stepping import Steps
from earnorm.underway import Run
from earnorm.verdict import is_no_attempt, process_ends

__all__ = ["StageLost", "perform_staged"]


class StageLost(Exception):
    """An attempt has failed and took the connection with it: nothing before it on the stage stands any more."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the stage was lost with an attempt that failed")
        self.outcome = outcome


def perform_staged(runner: Runner, run: Run, stage: Stage) -> Outcome | None:
    """One attempt, in a context of its own; None if it was given up meanwhile, and the stage is severed.

    A plain handler runs in this thread, an async one in the task of the async door that this runs under.
    Raises StageLost.
    """
    run.stage, run.thread = stage, threading.get_ident()
    context = Context()
    try:
        outcome = _call(runner, run, stage, context)
        _refuse_late(run)
    except BaseException as error:
        if is_no_attempt(error, awaited=run.way.handler.is_async):
            raise
        if run.end():
            return _failed(runner, run, stage, error)
    else:
        if run.end():
            return _over(runner, run, stage, outcome, context)
    tell_refused(run)
    return None


def _refuse_late(run: Run) -> None:
    if run.is_late:
        assert run.timeout is not None
        raise HandlerTimedOut(run.handler, run.timeout)


def _call(runner: Runner, run: Run, stage: Stage, context: Context) -> Outcome:
    context.run(stage.enter)
    if not run.way.handler.is_async:
        return context.run(runner.work, run)
    skipped = context.run(runner.preparation.prepare, run)
    return await_here(_acall(runner, run, context)) if skipped is None else skipped


async def _acall(runner: Runner, run: Run, context: Context) -> Outcome:
    """The handler's steps, each in its own context, in the task that awaits this."""
    outcome = context.run(runner.first_step, run, Steps())
    return runner.returned(run, await runner.waited_for(run, context)) if outcome is None else outcome


def _over(runner: Runner, run: Run, stage: Stage, outcome: Outcome, context: Context) -> Outcome:
    """It has come to its end: keep what it wrote if it is done, and nothing of any other outcome."""
    if not isinstance(outcome, Done):
        return _dropped(stage, runner.tell_of(run, outcome))
    try:
        # Whatever was not written yet is now, with its hooks.
        context.run(stage.keep)
    except BaseException as error:
        if process_ends(error, awaited=run.way.handler.is_async):
            raise
        return _failed(runner, run, stage, error)
    return runner.tell_of(run, outcome)


def _failed(runner: Runner, run: Run, stage: Stage, error: BaseException) -> Outcome:
    if (hint := stage.hint(error)) is not None:
        error.add_note(hint)
    return _dropped(stage, runner.came_to(run, error))


def _dropped(stage: Stage, outcome: Outcome) -> Outcome:
    """Raises StageLost if nothing can be undone any more but all of it."""
    try:
        stage.drop()
    except Exception as error:
        raise StageLost(outcome) from error
    return outcome
