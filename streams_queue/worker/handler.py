"""What kind of handler the worker was given: async or sync, and whether it wants the payload or the delivery."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streams_queue.errors import UsageError
from streams_queue.messages import Delivery

Handler = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class HandlerKind:
    """How to call a handler: awaited or in a thread, with the delivery or its payload."""

    is_async: bool
    takes_delivery: bool


def inspect_handler(handler: Handler) -> HandlerKind:
    """Find out how to call a handler, and refuse what would fail, or silently do nothing, on every event.

    Args:
        handler: A function, bound method, partial, or instance with `__call__`.

    Raises:
        UsageError: It cannot be called with one argument, or is a generator.
    """
    if not callable(handler):
        raise UsageError(f"A handler must be callable, not {type(handler).__name__}")
    function = _function_behind(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError("A handler must not be a generator: calling one runs nothing, and the event would be lost")
    return HandlerKind(inspect.iscoroutinefunction(function), _takes_delivery(handler, function))


def call_caught(handler: Handler, argument: Any) -> tuple[Any, BaseException | None]:
    """Call a sync handler in a thread; return its result and what it raised.

    Raises nothing: a StopIteration could not leave the thread through a future, which would then never be done.
    """
    try:
        return handler(argument), None
    except BaseException as error:  # noqa: BLE001 - raised again in the event loop's thread
        return None, error


def _function_behind(handler: Any) -> Any:
    """Return the function of a partial or of an instance with __call__: it has the annotations and the kind."""
    while isinstance(getattr(handler, "keywords", None), dict) and callable(getattr(handler, "func", None)):
        handler = handler.func
    return handler if inspect.isroutine(handler) or inspect.isclass(handler) else type(handler).__call__


def _takes_delivery(handler: Handler, function: Any) -> bool:
    """Tell whether the first parameter that is still open is annotated `Delivery`."""
    try:
        signature = inspect.signature(handler)
        signature.bind(object())
    except TypeError as error:
        raise UsageError(f"A handler is called with one argument: {error}") from None
    except ValueError:
        return False  # some builtins have no signature
    annotation = _annotation(next(iter(signature.parameters.values())), function)
    return annotation is Delivery or Delivery in typing.get_args(annotation)


def _annotation(parameter: inspect.Parameter, function: Any) -> Any:
    """Return a parameter's annotation; one that cannot be evaluated (`if TYPE_CHECKING`) goes by its name."""
    try:
        return typing.get_type_hints(function).get(parameter.name)
    except Exception:  # noqa: BLE001 - evaluating annotations runs foreign code
        name = str(parameter.annotation).strip("'\"").rpartition(".")[2]
        return Delivery if name == Delivery.__name__ else None
