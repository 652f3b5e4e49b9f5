"""Every error says what, where and the remedy, and survives the way home from another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from blyan import errors
from blyan.errors import BadRecordError, BlyanError, PermanentError, TransientError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BlyanError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_says_what_where_and_the_remedy(kind: type[BlyanError]) -> None:
    assert str(kind("it broke")) == "it broke"
    assert str(kind("it broke", where="slot 5")) == "it broke [at slot 5]"
    assert str(kind("it broke", where="slot 5", remedy="mend it")) == "it broke [at slot 5] Remedy: mend it"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling(kind: type[BlyanError]) -> None:
    error = kind("it broke", where="slot 5", remedy="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.what, again.where, again.remedy) == (str(error), "it broke", "slot 5", "mend it")


def test_the_reason_of_a_bad_record_survives_too() -> None:
    again = pickle.loads(pickle.dumps(BadRecordError("it broke", reason="truncated", where="slot 5")))
    assert (again.reason, again.where) == ("truncated", "slot 5")
    assert BadRecordError("it broke").reason == "bad_record"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not BlyanError])
def test_an_error_is_either_permanent_or_transient(kind: type[BlyanError]) -> None:
    assert issubclass(kind, PermanentError) != issubclass(kind, TransientError)
    assert kind.__doc__
