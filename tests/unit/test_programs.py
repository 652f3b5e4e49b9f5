"""Instructions decoded: against other people's builders, and never an error whatever the bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.system_program import (
    CreateAccountParams,
    CreateAccountWithSeedParams,
    TransferParams,
    create_account,
    create_account_with_seed,
    transfer,
)
from spl.token import instructions as spl
from spl.token import models
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from blyan.solana import programs

A, B, C, D, E = (Pubkey(bytes([number]) * 32) for number in range(1, 6))
U64 = st.integers(0, 2**64 - 1)


def decoded(instruction: Instruction) -> tuple[str, str | None, dict[str, Any]]:
    """Program, type and parameters, with accounts by name, as a row of `instructions` has them."""
    accounts = [str(meta.pubkey) for meta in instruction.accounts]
    result = programs.decode(str(instruction.program_id), bytes(instruction.data), len(accounts))
    assert result is not None
    return result.program, result.type, {name: value_of(value, accounts) for name, value in result.params}


def value_of(value: Any, accounts: list[str]) -> Any:
    if isinstance(value, tuple):
        return [accounts[position] for position in value]
    return accounts[value] if isinstance(value, int) else json.loads(value)


@given(U64)
def test_a_transfer_of_any_amount_is_exact(lamports):
    assert decoded(transfer(TransferParams(from_pubkey=A, to_pubkey=B, lamports=lamports))) == (
        "system",
        "transfer",
        {"source": str(A), "destination": str(B), "lamports": lamports},
    )


def test_creating_accounts_with_and_without_a_seed():
    made = create_account(CreateAccountParams(from_pubkey=A, to_pubkey=B, lamports=2**64 - 1, space=165, owner=TOKEN_PROGRAM_ID))
    assert decoded(made) == (
        "system",
        "createAccount",
        {"source": str(A), "newAccount": str(B), "lamports": 2**64 - 1, "space": 165, "owner": str(TOKEN_PROGRAM_ID)},
    )
    seeded = create_account_with_seed(CreateAccountWithSeedParams(from_pubkey=A, to_pubkey=B, base=C, seed='s"é\n', lamports=7, space=0, owner=D))
    program, type_, params = decoded(seeded)
    assert (program, type_) == ("system", "createAccountWithSeed")
    assert (params["seed"], params["base"], params["owner"], params["lamports"]) == ('s"é\n', str(C), str(D), 7)


def test_the_compute_budget_asked_for():
    assert decoded(set_compute_unit_limit(1_400_000)) == ("compute-budget", "setComputeUnitLimit", {"units": 1_400_000})
    assert decoded(set_compute_unit_price(2**64 - 1)) == ("compute-budget", "setComputeUnitPrice", {"microLamports": 2**64 - 1})


@pytest.mark.parametrize("program", [TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID], ids=["token", "token2022"])
@given(amount=U64, decimals=st.integers(0, 255))
@settings(max_examples=20)
def test_token_amounts_are_exact_up_to_the_largest_u64(program, amount, decimals):
    checked = spl.transfer_checked(
        models.TransferCheckedParams(program_id=program, source=A, mint=B, dest=C, owner=D, amount=amount, decimals=decimals, signers=[])
    )
    expected = {"source": str(A), "mint": str(B), "destination": str(C), "authority": str(D)}
    assert decoded(checked) == ("spl-token", "transferChecked", {**expected, "tokenAmount": {"amount": str(amount), "decimals": decimals}})
    minted = spl.mint_to(models.MintToParams(program_id=program, mint=A, dest=B, mint_authority=C, amount=amount, signers=[]))
    assert decoded(minted) == ("spl-token", "mintTo", {"mint": str(A), "account": str(B), "mintAuthority": str(C), "amount": str(amount)})
    burned = spl.burn(models.BurnParams(program_id=program, account=A, mint=B, owner=C, amount=amount, signers=[]))
    assert decoded(burned) == ("spl-token", "burn", {"account": str(A), "mint": str(B), "authority": str(C), "amount": str(amount)})


def test_more_signers_than_one_make_the_authority_a_multisig():
    sent = spl.transfer(models.TransferParams(program_id=TOKEN_PROGRAM_ID, source=A, dest=B, owner=C, amount=1, signers=[D, E]))
    assert decoded(sent)[2] == {"source": str(A), "destination": str(B), "multisigAuthority": str(C), "signers": [str(D), str(E)], "amount": "1"}


def test_a_withheld_fee_is_named_with_the_decimals_of_its_mint():
    data = bytes([26, 1]) + struct.pack("<QBQ", 1_000, 6, 25)
    result = programs.decode(programs.TOKEN_2022, data, 4)
    assert result is not None
    params = dict(result.params)
    assert result.type == "transferCheckedWithFee"
    assert json.loads(str(params["feeAmount"])) == {"amount": "25", "decimals": 6}


def test_a_memo_is_its_text_and_one_that_is_no_text_is_not_decoded():
    result = programs.decode(programs.MEMO_V3, "gm \U0001f31e\n".encode(), 0)
    assert result is not None
    assert (result.program, result.text, result.params) == ("spl-memo", "gm \U0001f31e\n", [])
    assert programs.decode(programs.MEMO_V3, b"\xff\xfe", 0) is None


def test_a_program_that_is_not_decoded_is_left_alone():
    assert programs.decode(str(A), b"\x02\0\0\0", 2) is None


@pytest.mark.parametrize("program", list(programs.DECODERS))
@given(data=st.binary(max_size=120), accounts=st.integers(0, 12), tag=st.integers(0, 60), wide=st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_bytes_make_a_decoder_fail_or_invent_an_account(program, data, accounts, tag, wide):
    data = (tag.to_bytes(4, "little") if wide else bytes([tag])) + data
    result = programs.decode(program, data, accounts)
    if result is None:
        return
    names = [name for name, _ in result.params]
    assert names == sorted(set(names))
    for _, value in result.params:
        if isinstance(value, str):
            assert json.dumps(json.loads(value), ensure_ascii=False, sort_keys=True, separators=(",", ":")) == value
        else:
            assert all(0 <= position < accounts for position in (value if isinstance(value, tuple) else (value,)))


@pytest.mark.parametrize("program", [program for program in programs.DECODERS if programs.tag_size(program)])
@given(body=st.binary(min_size=0, max_size=120), accounts=st.integers(0, 12), tag=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_decoding_many_of_one_shape_is_decoding_each(program, body, accounts, tag):
    head = tag.to_bytes(programs.tag_size(program), "little")
    shape = programs.shape_of(program, head, accounts)
    if shape is None or len(body) < shape.packing.size:
        return
    result = programs.decode(program, head + body, accounts)
    assert result is not None
    columns = shape.columns([head + body, head + body], len(head))
    values = [source if source >= 0 else columns[~source][1] for source in shape.sources]
    assert (shape.program, shape.type) == (result.program, result.type)
    assert list(zip(shape.names, values, strict=True)) == [(name, value) for name, value in result.params]


@pytest.mark.parametrize(
    "instruction",
    [
        transfer(TransferParams(from_pubkey=A, to_pubkey=B, lamports=1)),
        spl.burn(models.BurnParams(program_id=TOKEN_PROGRAM_ID, account=A, mint=B, owner=C, amount=1, signers=[])),
        set_compute_unit_price(1),
    ],
    ids=["system", "token", "budget"],
)
def test_an_instruction_cut_short_or_with_too_few_accounts_keeps_its_data(instruction):
    program, data, accounts = str(instruction.program_id), bytes(instruction.data), len(instruction.accounts)
    assert programs.decode(program, data, accounts) is not None
    for size in range(len(data)):
        assert programs.decode(program, data[:size], accounts) is None
    for count in range(accounts):
        assert programs.decode(program, data, count) is None
