"""A transaction's error in the runtime's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.transaction_status import InstructionErrorFieldless, TransactionErrorFieldless

from blyan.solana.transaction_error import describe

WITHOUT_WORDS = {"ResanitizationNeeded", "CommitCancelled"}
"""Variants that the runtime itself prints by their names."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("AccountNotFound", "Attempt to debit an account but found no record of a prior credit."),
        ({"InstructionError": [1, {"Custom": 20}]}, "Error processing Instruction 1: custom program error: 0x14"),
        ({"InstructionError": [0, {"Custom": 3_131_746_989}]}, "Error processing Instruction 0: custom program error: 0xbaaaaaad"),
        ({"InstructionError": [2, "InvalidArgument"]}, "Error processing Instruction 2: invalid program argument"),
        (
            {"InstructionError": [0, {"BorshIoError": "Unknown"}]},
            "Error processing Instruction 0: Failed to serialize or deserialize account data: Unknown",
        ),
        ({"InstructionError": [0, "BorshIoError"]}, "Error processing Instruction 0: Failed to serialize or deserialize account data: Unknown"),
        ({"InsufficientFundsForRent": {"account_index": 3}}, "Transaction results in an account (3) with insufficient funds for rent"),
        ({"DuplicateInstruction": 4}, "Transaction contains a duplicate instruction (4) that is not allowed"),
    ],
)
def test_an_error_reads_as_the_runtime_prints_it(error, words):
    assert describe(error) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("SomethingNew", "SomethingNew"),
        ({"SomethingNew": {"b": 1, "a": [2]}}, 'SomethingNew: {"a":[2],"b":1}'),
        ({"InstructionError": [7, "SomethingNew"]}, "Error processing Instruction 7: SomethingNew"),
        ({"InstructionError": [7, {"SomethingNew": 1}]}, "Error processing Instruction 7: SomethingNew: 1"),
        ({"two": 1, "names": 2}, '{"names":2,"two":1}'),
    ],
)
def test_an_error_that_is_not_known_keeps_its_name_and_content(error, words):
    assert describe(error) == words


def names_of(variants: type) -> list[str]:
    return [name for name in dir(variants) if name[0].isupper()]


@pytest.mark.parametrize("name", names_of(TransactionErrorFieldless))
def test_every_error_of_the_runtime_has_words(name):
    assert describe(name) != name or name in WITHOUT_WORDS


@pytest.mark.parametrize("name", names_of(InstructionErrorFieldless))
def test_every_error_of_an_instruction_has_words(name):
    assert describe({"InstructionError": [0, name]}) != f"Error processing Instruction 0: {name}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["InstructionError", "Custom", "DuplicateInstruction", "x"]), inner, max_size=2)
    ),
)


@given(JSON)
def test_whatever_the_error_is_it_has_a_text(error):
    assert isinstance(describe(error), str)
