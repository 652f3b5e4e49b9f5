"""Decoders of the instructions that RPC's `jsonParsed` would parse, and of the compute budget.

Belongs here: what the bytes of a known program's instruction mean. Does not belong here: where an
instruction sits in a block (`blyan.solana.normalise`), or formats of whole transactions.

Names of programs, instructions and parameters are those of Agave's `transaction-status` parsers, so
that a block read as `json` gives the rows it gives as `jsonParsed`. Two deliberate differences, applied to
both (see `blyan.solana.parsed`): a token amount keeps its exact `amount` and `decimals` and drops the
float beside them, and `create` of an associated token account drops `rentSysvar`, which only old nodes named.

An instruction that a layout does not fit (too few accounts, too short, an unknown tag) is not decoded:
its row keeps accounts and data, as RPC does.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import msgspec

from blyan.solana.base58 import encode as base58

SYSTEM = "11111111111111111111111111111111"
TOKEN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
TOKEN_2022 = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"
ASSOCIATED_TOKEN = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
VOTE = "Vote111111111111111111111111111111111111111"
STAKE = "Stake11111111111111111111111111111111111111"
MEMO_V1 = "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"
MEMO_V3 = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
COMPUTE_BUDGET = "ComputeBudget111111111111111111111111111111"
ADDRESS_LOOKUP_TABLE = "AddressLookupTab1e1111111111111111111111111"
BPF_LOADER_1 = "BPFLoader1111111111111111111111111111111111"
BPF_LOADER_2 = "BPFLoader2111111111111111111111111111111111"
BPF_UPGRADEABLE_LOADER = "BPFLoaderUpgradeab1e11111111111111111111111"

Value = str | int | tuple[int, ...]
"""JSON text of a parameter; or the position of an account; or positions of several."""


@dataclass(slots=True)
class Decoded:
    """One decoded instruction, apart from which accounts its positions mean.

    `params` are in the order of their names. `text` is a memo's, and then there is no type.
    """

    program: str
    type: str | None
    params: list[tuple[str, Value]]
    text: str | None = None


class _UnfitError(ValueError):
    """The bytes are not the instruction that their tag says."""


def to_json(value: object) -> str:
    """Canonical JSON text of a parameter: no spaces, keys in order, UTF-8."""
    return msgspec.json.encode(value, order="sorted").decode()


class _Reader:
    """Reads little-endian fields off an instruction's data."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise _UnfitError("too short")
        self.at += size
        return piece

    def integer(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def flag(self) -> bool:
        tag = self.take(1)[0]
        if tag > 1:
            raise _UnfitError("not an option")
        return tag == 1

    def string(self) -> str:
        return self.take(self.integer(8)).decode()

    def borsh_string(self) -> str:
        return self.take(self.integer(4)).decode()

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if value >> 64:
            raise _UnfitError("varint over u64")
        return value

    def short_length(self) -> int:
        value = self.varint()
        if value > 0xFFFF:
            raise _UnfitError("length over u16")
        return value


def _pubkey(reader: _Reader) -> str:
    return f'"{base58(reader.take(32))}"'


def _optional_pubkey(reader: _Reader) -> str | None:
    return _pubkey(reader) if reader.flag() else None


def _nonzero_pubkey(reader: _Reader) -> str | None:
    key = reader.take(32)
    return f'"{base58(key)}"' if any(key) else None


def _enum(*names: str) -> Callable[[_Reader], str]:
    def read(reader: _Reader) -> str:
        tag = reader.take(1)[0]
        if tag >= len(names):
            raise _UnfitError("unknown variant")
        return f'"{names[tag]}"'

    return read


def _enum_u32(*names: str) -> Callable[[_Reader], str]:
    def read(reader: _Reader) -> str:
        tag = reader.integer(4)
        if tag >= len(names):
            raise _UnfitError("unknown variant")
        return f'"{names[tag]}"'

    return read


def token_amount(amount: int, decimals: int) -> str:
    """The exact half of RPC's token amount, as JSON text."""
    return f'{{"amount":"{amount}","decimals":{decimals}}}'


def _token_amount(reader: _Reader) -> str:
    return token_amount(reader.integer(8), reader.take(1)[0])


def _base64_bytes(reader: _Reader) -> str:
    return to_json(base64.b64encode(reader.take(reader.integer(8))).decode())


_EXTENSIONS = (
    "uninitialized", "transferFeeConfig", "transferFeeAmount", "mintCloseAuthority", "confidentialTransferMint", "confidentialTransferAccount",
    "defaultAccountState", "immutableOwner", "memoTransfer", "nonTransferable", "interestBearingConfig", "cpiGuard", "permanentDelegate",
    "nonTransferableAccount", "transferHook", "transferHookAccount", "confidentialTransferFeeConfig", "confidentialTransferFeeAmount",
    "metadataPointer", "tokenMetadata", "groupPointer", "tokenGroup", "groupMemberPointer", "tokenGroupMember", "confidentialMintBurn",
    "scaledUiAmountConfig", "pausableConfig", "pausableAccount",
)  # fmt: skip


def _extension_types(reader: _Reader) -> str | None:
    names = []
    while reader.at < len(reader.data):
        tag = reader.integer(2)
        if tag >= len(_EXTENSIONS):
            raise _UnfitError("unknown extension")
        names.append(_EXTENSIONS[tag])
    return to_json(names) if names else None


_READ: dict[str, Callable[[_Reader], str | None]] = {
    "u8": lambda reader: str(reader.take(1)[0]),
    "u16": lambda reader: str(reader.integer(2)),
    "u32": lambda reader: str(reader.integer(4)),
    "u64": lambda reader: str(reader.integer(8)),
    "i16": lambda reader: str(reader.integer(2, signed=True)),
    "i64": lambda reader: str(reader.integer(8, signed=True)),
    "amount": lambda reader: f'"{reader.integer(8)}"',
    "token_amount": _token_amount,
    "pubkey": _pubkey,
    # Null is written where Agave writes it, and the name left out where Agave leaves it out.
    "pubkey_or_null": lambda reader: _optional_pubkey(reader) or "null",
    "pubkey_or_absent": _optional_pubkey,
    "nonzero_pubkey_or_null": lambda reader: _nonzero_pubkey(reader) or "null",
    "nonzero_pubkey_or_absent": _nonzero_pubkey,
    "string": lambda reader: to_json(reader.string()),
    "borsh_string": lambda reader: to_json(reader.borsh_string()),
    "rest_string": lambda reader: to_json(reader.take(len(reader.data) - reader.at).decode()),
    "base64": _base64_bytes,
    "extension_types": _extension_types,
    "token_authority": _enum(
        "mintTokens", "freezeAccount", "accountOwner", "closeAccount", "transferFeeConfig", "withheldWithdraw", "closeMint",
        "interestRate", "permanentDelegate", "confidentialTransferMint", "transferHookProgramId", "confidentialTransferFeeConfig",
        "metadataPointer", "groupPointer", "groupMemberPointer", "scaledUiAmount", "pause",
    ),
    "account_state": _enum("uninitialized", "initialized", "frozen"),
    "vote_authorize": _enum_u32("Voter", "Withdrawer"),
    "stake_authorize": _enum_u32("Staker", "Withdrawer"),
}  # fmt: skip


_AMOUNT_AND_DECIMALS = struct.Struct("<QB")

_FIXED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "u8": ("B", str),
    "u16": ("H", str),
    "u32": ("I", str),
    "u64": ("Q", str),
    "i16": ("h", str),
    "i64": ("q", str),
    "amount": ("Q", '"{}"'.format),
    "token_amount": ("9s", lambda data: token_amount(*_AMOUNT_AND_DECIMALS.unpack(data))),
    "pubkey": ("32s", lambda data: f'"{base58(data)}"'),
}
"""Fields of one size: their `struct` format, and the JSON text of a value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What instructions of one layout and number of accounts have in common: all but the values of their data.

    Attributes:
        names: parameters in the order of their names.
        sources: for each, the position of an account, or `~field` for a field of the data.
        fields: packing of the data, and how each field reads as JSON.
    """

    program: str
    type: str
    names: tuple[str, ...]
    sources: tuple[int, ...]
    packing: struct.Struct
    formats: tuple[Callable[[Any], str], ...]

    def columns(self, data: Sequence[bytes], at: int) -> list[list[str]]:
        """JSON texts of each field of the data, one list per field, read from offset `at`."""
        rows = [self.packing.unpack_from(item, at) for item in data]
        return [[text(value) for value in column] for text, column in zip(self.formats, zip(*rows, strict=True), strict=True)]


@dataclass(frozen=True)
class Layout:
    """One instruction: the names of its accounts by position, then the fields of its data.

    `accounts` ending in `?` may be missing; `signers` is (position, single name, multisig name) of an authority
    that more accounts after it turn into a multisig; `rest` names the accounts from a position on.
    """

    name: str
    accounts: tuple[str, ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    signers: tuple[int, str, str] | None = None
    rest: tuple[int, str] | None = None
    minimum: int | None = None

    @cached_property
    def required(self) -> int:
        """Accounts the instruction must have."""
        if self.minimum is not None:
            return self.minimum
        return sum(not name.endswith("?") for name in self.accounts) + (1 if self.signers else 0)

    def shape(self, program: str, account_count: int) -> Shape | None:
        """The shape with so many accounts, or None where values differ in more than their data (lists, options)."""
        if account_count < self.required or self.rest or not all(kind in _FIXED for _, kind in self.data):
            return None
        if self.signers and account_count > self.signers[0] + 1:
            return None
        sources = {name.rstrip("?"): position for position, name in enumerate(self.accounts) if position < account_count}
        if self.signers:
            sources[self.signers[1]] = self.signers[0]
        sources |= {name: ~field for field, (name, _) in enumerate(self.data)}
        names = tuple(sorted(sources))
        packing = struct.Struct("<" + "".join(_FIXED[kind][0] for _, kind in self.data))
        return Shape(program, self.name, names, tuple(sources[name] for name in names), packing, tuple(_FIXED[kind][1] for _, kind in self.data))

    def decode(self, program: str, data: bytes, at: int, account_count: int) -> Decoded:
        """Decode `data` from offset `at`.

        Raises:
            ValueError: the layout does not fit.
        """
        if account_count < self.required:
            raise _UnfitError("too few accounts")
        params: dict[str, Value] = {name.rstrip("?"): position for position, name in enumerate(self.accounts) if position < account_count}
        reader = _Reader(data, at)
        for name, kind in self.data:
            value = _READ[kind](reader)
            if value is not None:
                params[name] = value
        if self.signers:
            position, single, multisig = self.signers
            if account_count > position + 1:
                params[multisig] = position
                params["signers"] = tuple(range(position + 1, account_count))
            else:
                params[single] = position
        if self.rest:
            position, name = self.rest
            params[name] = tuple(range(position, account_count))
        return Decoded(program, self.name, sorted(params.items()))


def _layout(name: str, accounts: str = "", data: str = "", **more: object) -> Layout:
    """`accounts` as names, `data` as `name:kind` words."""
    fields = tuple((field.partition(":")[0], field.partition(":")[2]) for field in data.split())
    return Layout(name, tuple(accounts.split()), fields, **more)  # type: ignore[arg-type]


_SYSTEM = {
    0: _layout("createAccount", "source newAccount", "lamports:u64 space:u64 owner:pubkey"),
    1: _layout("assign", "account", "owner:pubkey"),
    2: _layout("transfer", "source destination", "lamports:u64"),
    3: _layout("createAccountWithSeed", "source newAccount", "base:pubkey seed:string lamports:u64 space:u64 owner:pubkey"),
    4: _layout("advanceNonce", "nonceAccount recentBlockhashesSysvar nonceAuthority"),
    5: _layout("withdrawFromNonce", "nonceAccount destination recentBlockhashesSysvar rentSysvar nonceAuthority", "lamports:u64"),
    6: _layout("initializeNonce", "nonceAccount recentBlockhashesSysvar rentSysvar", "nonceAuthority:pubkey"),
    7: _layout("authorizeNonce", "nonceAccount nonceAuthority", "newAuthorized:pubkey"),
    8: _layout("allocate", "account", "space:u64"),
    9: _layout("allocateWithSeed", "account", "base:pubkey seed:string space:u64 owner:pubkey", minimum=2),
    10: _layout("assignWithSeed", "account", "base:pubkey seed:string owner:pubkey", minimum=2),
    11: _layout("transferWithSeed", "source sourceBase destination", "lamports:u64 sourceSeed:string sourceOwner:pubkey"),
    12: _layout("upgradeNonce", "nonceAccount"),
    13: _layout("createAccountAllowPrefund", "newAccount source?", "lamports:u64 space:u64 owner:pubkey"),
}

_STAKE = {
    2: _layout("delegate", "stakeAccount voteAccount clockSysvar stakeHistorySysvar stakeConfigAccount stakeAuthority"),
    3: _layout("split", "stakeAccount newSplitAccount stakeAuthority", "lamports:u64"),
    4: _layout("withdraw", "stakeAccount destination clockSysvar stakeHistorySysvar withdrawAuthority custodian?", "lamports:u64"),
    5: _layout("deactivate", "stakeAccount clockSysvar stakeAuthority"),
    7: _layout("merge", "destination source clockSysvar stakeHistorySysvar stakeAuthority"),
    1: _layout("authorize", "stakeAccount clockSysvar authority custodian?", "newAuthority:pubkey authorityType:stake_authorize"),
    8: _layout(
        "authorizeWithSeed", "stakeAccount authorityBase clockSysvar? custodian?",
        "newAuthorized:pubkey authorityType:stake_authorize authoritySeed:string authorityOwner:pubkey",
    ),
    9: _layout("initializeChecked", "stakeAccount rentSysvar staker withdrawer"),
    10: _layout("authorizeChecked", "stakeAccount clockSysvar authority newAuthority custodian?", "authorityType:stake_authorize"),
    11: _layout(
        "authorizeCheckedWithSeed", "stakeAccount authorityBase clockSysvar newAuthorized custodian?",
        "authorityType:stake_authorize authoritySeed:string authorityOwner:pubkey",
    ),
    14: _layout("deactivateDelinquent", "stakeAccount voteAccount referenceVoteAccount"),
    15: _layout("redelegate", "stakeAccount newStakeAccount voteAccount stakeConfigAccount stakeAuthority"),
    16: _layout("moveStake", "source destination stakeAuthority", "lamports:u64"),
    17: _layout("moveLamports", "source destination stakeAuthority", "lamports:u64"),
}  # fmt: skip

_VOTE = {
    0: _layout(
        "initialize", "voteAccount rentSysvar clockSysvar node", "_node:pubkey authorizedVoter:pubkey authorizedWithdrawer:pubkey commission:u8"
    ),
    1: _layout("authorize", "voteAccount clockSysvar authority", "newAuthority:pubkey authorityType:vote_authorize"),
    3: _layout("withdraw", "voteAccount destination withdrawAuthority", "lamports:u64"),
    4: _layout("updateValidatorIdentity", "voteAccount newValidatorIdentity withdrawAuthority"),
    5: _layout("updateCommission", "voteAccount withdrawAuthority", "commission:u8"),
    7: _layout("authorizeChecked", "voteAccount clockSysvar authority newAuthority", "authorityType:vote_authorize"),
    10: _layout(
        "authorizeWithSeed", "voteAccount clockSysvar authorityBaseKey",
        "authorityType:vote_authorize authorityOwner:pubkey authoritySeed:string newAuthority:pubkey",
    ),
    11: _layout(
        "authorizeCheckedWithSeed", "voteAccount clockSysvar authorityBaseKey newAuthority",
        "authorityType:vote_authorize authorityOwner:pubkey authoritySeed:string",
    ),
}  # fmt: skip

_AUTHORITY = ("authority", "multisigAuthority")
_OWNER = ("owner", "multisigOwner")
_MINT_AUTHORITY = ("mintAuthority", "multisigMintAuthority")
_FREEZE_AUTHORITY = ("freezeAuthority", "multisigFreezeAuthority")

_TOKEN = {
    0: _layout("initializeMint", "mint rentSysvar", "decimals:u8 mintAuthority:pubkey freezeAuthority:pubkey_or_absent"),
    1: _layout("initializeAccount", "account mint owner rentSysvar"),
    2: _layout("initializeMultisig", "multisig rentSysvar", "m:u8", rest=(2, "signers"), minimum=3),
    3: _layout("transfer", "source destination", "amount:amount", signers=(2, *_AUTHORITY)),
    4: _layout("approve", "source delegate", "amount:amount", signers=(2, *_OWNER)),
    5: _layout("revoke", "source", signers=(1, *_OWNER)),
    7: _layout("mintTo", "mint account", "amount:amount", signers=(2, *_MINT_AUTHORITY)),
    8: _layout("burn", "account mint", "amount:amount", signers=(2, *_AUTHORITY)),
    9: _layout("closeAccount", "account destination", signers=(2, *_OWNER)),
    10: _layout("freezeAccount", "account mint", signers=(2, *_FREEZE_AUTHORITY)),
    11: _layout("thawAccount", "account mint", signers=(2, *_FREEZE_AUTHORITY)),
    12: _layout("transferChecked", "source mint destination", "tokenAmount:token_amount", signers=(3, *_AUTHORITY)),
    13: _layout("approveChecked", "source mint delegate", "tokenAmount:token_amount", signers=(3, *_OWNER)),
    14: _layout("mintToChecked", "mint account", "tokenAmount:token_amount", signers=(2, *_MINT_AUTHORITY)),
    15: _layout("burnChecked", "account mint", "tokenAmount:token_amount", signers=(2, *_AUTHORITY)),
    16: _layout("initializeAccount2", "account mint rentSysvar", "owner:pubkey"),
    17: _layout("syncNative", "account"),
    18: _layout("initializeAccount3", "account mint", "owner:pubkey"),
    19: _layout("initializeMultisig2", "multisig", "m:u8", rest=(1, "signers"), minimum=2),
    20: _layout("initializeMint2", "mint", "decimals:u8 mintAuthority:pubkey freezeAuthority:pubkey_or_absent"),
    21: _layout("getAccountDataSize", "mint", "extensionTypes:extension_types"),
    22: _layout("initializeImmutableOwner", "account"),
    23: _layout("amountToUiAmount", "mint", "amount:amount"),
    24: _layout("uiAmountToAmount", "mint", "uiAmount:rest_string"),
    25: _layout("initializeMintCloseAuthority", "mint", "newAuthority:pubkey_or_null"),
    29: _layout("reallocate", "account payer systemProgram", "extensionTypes:extension_types", signers=(3, *_OWNER)),
    31: _layout("createNativeMint", "payer nativeMint systemProgram"),
    32: _layout("initializeNonTransferableMint", "mint"),
    35: _layout("initializePermanentDelegate", "mint", "delegate:pubkey"),
    38: _layout("withdrawExcessLamports", "source destination", signers=(2, *_AUTHORITY)),
}

_TOKEN_EXTENSIONS = {
    (26, 0): _layout(
        "initializeTransferFeeConfig", "mint",
        "transferFeeConfigAuthority:pubkey_or_absent withdrawWithheldAuthority:pubkey_or_absent transferFeeBasisPoints:u16 maximumFee:u64",
    ),
    (26, 1): _layout(
        "transferCheckedWithFee", "source mint destination", "tokenAmount:token_amount feeAmount:amount", signers=(3, *_AUTHORITY)
    ),
    (26, 2): _layout(
        "withdrawWithheldTokensFromMint", "mint feeRecipient", signers=(2, "withdrawWithheldAuthority", "multisigWithdrawWithheldAuthority")
    ),
    (26, 4): _layout("harvestWithheldTokensToMint", "mint", rest=(1, "sourceAccounts")),
    (26, 5): _layout(
        "setTransferFee", "mint", "transferFeeBasisPoints:u16 maximumFee:u64",
        signers=(1, "transferFeeConfigAuthority", "multisigtransferFeeConfigAuthority"),
    ),
    (28, 0): _layout("initializeDefaultAccountState", "mint", "accountState:account_state"),
    (28, 1): _layout("updateDefaultAccountState", "mint", "accountState:account_state", signers=(1, *_FREEZE_AUTHORITY)),
    (30, 0): _layout("enableRequiredMemoTransfers", "account", signers=(1, *_OWNER)),
    (30, 1): _layout("disableRequiredMemoTransfers", "account", signers=(1, *_OWNER)),
    (33, 0): _layout("initializeInterestBearingConfig", "mint", "rateAuthority:nonzero_pubkey_or_null rate:i16"),
    (33, 1): _layout("updateInterestBearingConfigRate", "mint", "newRate:i16", signers=(1, "rateAuthority", "multisigRateAuthority")),
    (34, 0): _layout("enableCpiGuard", "account", signers=(1, *_OWNER)),
    (34, 1): _layout("disableCpiGuard", "account", signers=(1, *_OWNER)),
    (36, 0): _layout("initializeTransferHook", "mint", "authority:nonzero_pubkey_or_absent programId:nonzero_pubkey_or_absent"),
    (36, 1): _layout("updateTransferHook", "mint", "programId:nonzero_pubkey_or_absent", signers=(1, *_AUTHORITY)),
    (39, 0): _layout("initializeMetadataPointer", "mint", "authority:nonzero_pubkey_or_absent metadataAddress:nonzero_pubkey_or_absent"),
    (39, 1): _layout("updateMetadataPointer", "mint", "metadataAddress:nonzero_pubkey_or_absent", signers=(1, *_AUTHORITY)),
    (40, 0): _layout("initializeGroupPointer", "mint", "authority:nonzero_pubkey_or_absent groupAddress:nonzero_pubkey_or_absent"),
    (40, 1): _layout("updateGroupPointer", "mint", "groupAddress:nonzero_pubkey_or_absent", signers=(1, *_AUTHORITY)),
    (41, 0): _layout("initializeGroupMemberPointer", "mint", "authority:nonzero_pubkey_or_absent memberAddress:nonzero_pubkey_or_absent"),
    (41, 1): _layout("updateGroupMemberPointer", "mint", "memberAddress:nonzero_pubkey_or_absent", signers=(1, *_AUTHORITY)),
    (44, 0): _layout("initializePausableConfig", "mint", "authority:nonzero_pubkey_or_null"),
    (44, 1): _layout("pause", "mint", signers=(1, *_AUTHORITY)),
    (44, 2): _layout("resume", "mint", signers=(1, *_AUTHORITY)),
}  # fmt: skip

_TOKEN_METADATA = {
    # First eight bytes of sha256("spl_token_metadata_interface:<instruction>"), the discriminators of that interface.
    bytes((210, 225, 30, 162, 88, 184, 77, 141)): _layout(
        "initializeTokenMetadata", "metadata updateAuthority mint mintAuthority", "name:borsh_string symbol:borsh_string uri:borsh_string"
    ),
    bytes((215, 228, 166, 228, 84, 100, 86, 123)): _layout(
        "updateTokenMetadataAuthority", "metadata updateAuthority", "newAuthority:nonzero_pubkey_or_null"
    ),
}

_ASSOCIATED_TOKEN = {
    0: _layout("create", "source account wallet mint systemProgram tokenProgram"),
    1: _layout("createIdempotent", "source account wallet mint systemProgram tokenProgram"),
    2: _layout("recoverNested", "nestedSource nestedMint destination nestedOwner ownerMint wallet tokenProgram"),
}

_COMPUTE_BUDGET = {
    0: _layout("requestUnits", "", "units:u32 additionalFee:u32"),
    1: _layout("requestHeapFrame", "", "bytes:u32"),
    2: _layout("setComputeUnitLimit", "", "units:u32"),
    3: _layout("setComputeUnitPrice", "", "microLamports:u64"),
    4: _layout("setLoadedAccountsDataSizeLimit", "", "bytes:u32"),
}

_LOOKUP_TABLE = {
    0: _layout("createLookupTable", "lookupTableAccount lookupTableAuthority payerAccount systemProgram", "recentSlot:u64 bumpSeed:u8"),
    1: _layout("freezeLookupTable", "lookupTableAccount lookupTableAuthority"),
    3: _layout("deactivateLookupTable", "lookupTableAccount lookupTableAuthority"),
    4: _layout("closeLookupTable", "lookupTableAccount lookupTableAuthority recipient"),
}

_LOADER = {
    0: _layout("write", "account", "offset:u32 bytes:base64"),
    1: _layout("finalize", "account", minimum=2),
}

_UPGRADEABLE_LOADER = {
    0: _layout("initializeBuffer", "account authority?"),
    1: _layout("write", "account authority", "offset:u32 bytes:base64"),
    2: _layout(
        "deployWithMaxDataLen",
        "payerAccount programDataAccount programAccount bufferAccount rentSysvar clockSysvar systemProgram authority",
        "maxDataLen:u64",
    ),
    3: _layout("upgrade", "programDataAccount programAccount bufferAccount spillAccount rentSysvar clockSysvar authority"),
    7: _layout("setAuthorityChecked", "account authority newAuthority"),
}


def _no_trailing_none(decoded: Decoded, *names: str) -> Decoded:
    """Agave writes null for these accounts where they are missing."""
    have = {name for name, _ in decoded.params}
    decoded.params = sorted([*decoded.params, *((name, "null") for name in names if name not in have)])
    return decoded


def _tagged_u32(layouts: dict[int, Layout], program: str, data: bytes, account_count: int) -> Decoded:
    if account_count == 0:
        raise _UnfitError("no accounts")
    return layouts[_Reader(data, 0).integer(4)].decode(program, data, 4, account_count)


def _system(data: bytes, account_count: int) -> Decoded:
    return _tagged_u32(_SYSTEM, "system", data, account_count)


def _stake(data: bytes, account_count: int) -> Decoded:
    reader = _Reader(data, 0)
    tag = reader.integer(4)
    if tag == 0 and account_count >= 2:
        authorized = f'{{"staker":{_pubkey(reader)},"withdrawer":{_pubkey(reader)}}}'
        unix, epoch, custodian = reader.integer(8, signed=True), reader.integer(8), _pubkey(reader)
        lockup = f'{{"custodian":{custodian},"epoch":{epoch},"unixTimestamp":{unix}}}'
        return Decoded("stake", "initialize", [("authorized", authorized), ("lockup", lockup), ("rentSysvar", 1), ("stakeAccount", 0)])
    if tag == 6 and account_count >= 2:
        lockup_fields: list[tuple[str, str]] = []
        if reader.flag():
            lockup_fields.append(("unixTimestamp", str(reader.integer(8, signed=True))))
        if reader.flag():
            lockup_fields.append(("epoch", str(reader.integer(8))))
        if reader.flag():
            lockup_fields.append(("custodian", _pubkey(reader)))
        text = ",".join(f'"{name}":{value}' for name, value in sorted(lockup_fields))
        return Decoded("stake", "setLockup", [("custodian", 1), ("lockup", f"{{{text}}}"), ("stakeAccount", 0)])
    if tag == 13:
        return Decoded("stake", "getMinimumDelegation", [])
    return _tagged_u32(_STAKE, "stake", data, account_count)


def _timestamp(reader: _Reader) -> str:
    return str(reader.integer(8, signed=True)) if reader.flag() else "null"


def _ballot(reader: _Reader) -> str:
    """A `Vote`: the slots voted for, their bank's hash, and the time the voter saw."""
    count = reader.integer(8)
    slots = ",".join(map(str, struct.unpack(f"<{count}Q", reader.take(8 * count)))) if count < 1 << 16 else None
    if slots is None:
        raise _UnfitError("absurd length")
    return f'{{"hash":{_pubkey(reader)},"slots":[{slots}],"timestamp":{_timestamp(reader)}}}'


def _lockouts(pairs: list[tuple[int, int]]) -> str:
    return ",".join(f'{{"confirmation_count":{count},"slot":{slot}}}' for slot, count in pairs)


def _vote_state_update(reader: _Reader) -> str:
    count = reader.integer(8)
    if count > 1 << 12:
        raise _UnfitError("absurd length")
    lockouts = _lockouts([(reader.integer(8), reader.integer(4)) for _ in range(count)])
    root = str(reader.integer(8)) if reader.flag() else "null"
    return f'{{"hash":{_pubkey(reader)},"lockouts":[{lockouts}],"root":{root},"timestamp":{_timestamp(reader)}}}'


def _compact_tower(reader: _Reader, *, block_id: bool) -> str:
    """Lockouts as offsets from the root: `serde_compact_vote_state_update` and `serde_tower_sync` of the vote interface."""
    root = reader.integer(8)
    slot = 0 if root == (1 << 64) - 1 else root
    count = reader.short_length()
    data, at = reader.data, reader.at
    pairs = []
    if at + 2 * count > len(data):
        raise _UnfitError("too short")
    for _ in range(count):
        # Nearly every offset is below 128: one byte, and then the confirmation count.
        offset, at = data[at], at + 1
        if offset >= 0x80:
            reader.at = at - 1
            offset, at = reader.varint(), reader.at
        slot += offset
        pairs.append((slot, data[at]))
        at += 1
    reader.at = at
    digest, time = _pubkey(reader), _timestamp(reader)
    block = f'"blockId":{_pubkey(reader)},' if block_id else ""
    root_text = "null" if root == (1 << 64) - 1 else str(root)
    return f'{{{block}"hash":{digest},"lockouts":[{_lockouts(pairs)}],"root":{root_text},"timestamp":{time}}}'


_TOWER_TYPES: dict[int, tuple[str, str, Callable[[_Reader], str]]] = {
    8: ("updatevotestate", "voteStateUpdate", _vote_state_update),
    12: ("compactupdatevotestate", "voteStateUpdate", partial(_compact_tower, block_id=False)),
    14: ("towersync", "towerSync", partial(_compact_tower, block_id=True)),
}


def _vote(data: bytes, account_count: int) -> Decoded:
    reader = _Reader(data, 0)
    tag = reader.integer(4)
    if tag in (2, 6):
        if account_count < 4:
            raise _UnfitError("too few accounts")
        params: list[tuple[str, Value]] = [
            ("clockSysvar", 2),
            ("slotHashesSysvar", 1),
            ("vote", _ballot(reader)),
            ("voteAccount", 0),
            ("voteAuthority", 3),
        ]
        if tag == 6:
            params.insert(1, ("hash", _pubkey(reader)))
        return Decoded("vote", "vote" if tag == 2 else "voteSwitch", params)
    if tag in (8, 9, 12, 13, 14, 15):
        if account_count < 2:
            raise _UnfitError("too few accounts")
        name, field, read = _TOWER_TYPES[tag & ~1]
        params = [(field, read(reader)), ("voteAccount", 0), ("voteAuthority", 1)]
        if tag & 1:
            params.append(("hash", _pubkey(reader)))
            name += "switch"
        return Decoded("vote", name, sorted(params, key=lambda param: param[0]))
    decoded = _tagged_u32(_VOTE, "vote", data, account_count)
    decoded.params = [param for param in decoded.params if param[0] != "_node"]
    return decoded


def _set_authority(data: bytes, account_count: int) -> Decoded:
    # Which account changes hands depends on the authority: accountOwner and closeAccount belong to an account, the rest to a mint.
    owned = "account" if data[1:2] in (b"\x02", b"\x03") else "mint"
    layout = _layout("setAuthority", owned, "authorityType:token_authority newAuthority:pubkey_or_null", signers=(1, *_AUTHORITY))
    return layout.decode("spl-token", data, 1, account_count)


def _withdraw_withheld_from_accounts(data: bytes, account_count: int) -> Decoded:
    sources = _Reader(data, 2).take(1)[0]
    if account_count < 3 + sources:
        raise _UnfitError("too few accounts")
    layout = _layout(
        "withdrawWithheldTokensFromAccounts", "mint feeRecipient", signers=(2, "withdrawWithheldAuthority", "multisigWithdrawWithheldAuthority")
    )
    decoded = layout.decode("spl-token", data, 3, account_count - sources)
    decoded.params = sorted([*decoded.params, ("sourceAccounts", tuple(range(account_count - sources, account_count)))], key=lambda param: param[0])
    return decoded


def _token(data: bytes, account_count: int) -> Decoded:
    if not data or account_count == 0:
        raise _UnfitError("empty")
    tag = data[0]
    if tag == 6:
        return _set_authority(data, account_count)
    if data[:2] == b"\x1a\x03":
        return _withdraw_withheld_from_accounts(data, account_count)
    layout = _TOKEN.get(tag)
    if layout is not None:
        decoded = layout.decode("spl-token", data, 1, account_count)
    elif (extension := _TOKEN_EXTENSIONS.get((tag, data[1] if len(data) > 1 else -1))) is not None:
        decoded = extension.decode("spl-token", data, 2, account_count)
        if decoded.type == "transferCheckedWithFee":
            _fee_with_decimals(decoded)
    else:
        decoded = _TOKEN_METADATA[data[:8]].decode("spl-token", data, 8, account_count)
    return decoded


def _fee_with_decimals(decoded: Decoded) -> None:
    """The fee is in units of the mint, so RPC shows it with the mint's decimals."""
    values = dict(decoded.params)
    decimals = msgspec.json.decode(str(values["tokenAmount"]))["decimals"]
    values["feeAmount"] = token_amount(int(str(values["feeAmount"]).strip('"')), decimals)
    decoded.params = sorted(values.items())


def _associated_token(data: bytes, account_count: int) -> Decoded:
    # No data at all is the program's first version, which could only create.
    return _ASSOCIATED_TOKEN[data[0] if data else 0].decode("spl-associated-token-account", data, 1, account_count)


def _memo(data: bytes, _account_count: int) -> Decoded:
    return Decoded("spl-memo", None, [], text=data.decode())


def _compute_budget(data: bytes, account_count: int) -> Decoded:
    return _COMPUTE_BUDGET[_Reader(data, 0).take(1)[0]].decode("compute-budget", data, 1, account_count)


def _lookup_table(data: bytes, account_count: int) -> Decoded:
    reader = _Reader(data, 0)
    if reader.integer(4) == 2 and account_count >= 2:
        count = reader.integer(8)
        if count > 256:
            raise _UnfitError("absurd length")
        addresses = ",".join(_pubkey(reader) for _ in range(count))
        params: list[tuple[str, Value]] = [("lookupTableAccount", 0), ("lookupTableAuthority", 1), ("newAddresses", f"[{addresses}]")]
        if account_count >= 4:
            params += [("payerAccount", 2), ("systemProgram", 3)]
        return Decoded("address-lookup-table", "extendLookupTable", params)
    return _tagged_u32(_LOOKUP_TABLE, "address-lookup-table", data, account_count)


def _loader(data: bytes, account_count: int) -> Decoded:
    return _tagged_u32(_LOADER, "bpf-loader", data, account_count)


def _upgradeable_loader(data: bytes, account_count: int) -> Decoded:
    program = "bpf-upgradeable-loader"
    reader = _Reader(data, 0)
    tag = reader.integer(4)
    if tag == 4:
        return _no_trailing_none(_layout("setAuthority", "account authority newAuthority?").decode(program, data, 4, account_count), "newAuthority")
    if tag == 5:
        return _no_trailing_none(
            _layout("close", "account recipient authority? programAccount?").decode(program, data, 4, account_count), "authority", "programAccount"
        )
    if tag == 6:
        layout = _layout("extendProgram", "programDataAccount programAccount systemProgram? payerAccount?", "additionalBytes:u32")
        return _no_trailing_none(layout.decode(program, data, 4, account_count), "systemProgram", "payerAccount")
    return _tagged_u32(_UPGRADEABLE_LOADER, program, data, account_count)


DECODERS: dict[str, Callable[[bytes, int], Decoded]] = {
    SYSTEM: _system,
    TOKEN: _token,
    TOKEN_2022: _token,
    ASSOCIATED_TOKEN: _associated_token,
    VOTE: _vote,
    STAKE: _stake,
    MEMO_V1: _memo,
    MEMO_V3: _memo,
    COMPUTE_BUDGET: _compute_budget,
    ADDRESS_LOOKUP_TABLE: _lookup_table,
    BPF_LOADER_1: _loader,
    BPF_LOADER_2: _loader,
    BPF_UPGRADEABLE_LOADER: _upgradeable_loader,
}
"""Program account to its decoder: (data, number of accounts) to `Decoded`; raises ValueError or KeyError where it does not fit."""


_BY_TAG: dict[str, tuple[str, int, dict[int, Layout]]] = {
    SYSTEM: ("system", 4, _SYSTEM),
    STAKE: ("stake", 4, _STAKE),
    TOKEN: ("spl-token", 1, _TOKEN),
    TOKEN_2022: ("spl-token", 1, _TOKEN),
    ASSOCIATED_TOKEN: ("spl-associated-token-account", 1, _ASSOCIATED_TOKEN),
    COMPUTE_BUDGET: ("compute-budget", 1, _COMPUTE_BUDGET),
    ADDRESS_LOOKUP_TABLE: ("address-lookup-table", 4, _LOOKUP_TABLE),
}
"""Programs whose instructions a tag tells apart: name, bytes of the tag, layouts."""


_TOLD_APART = (
    *("initialize", "setLockup", "getMinimumDelegation", "vote", "voteSwitch"),
    *(name + switch for name, _, _ in _TOWER_TYPES.values() for switch in ("", "switch")),
    *("setAuthority", "withdrawWithheldTokensFromAccounts", "extendLookupTable", "close", "extendProgram"),
)
"""Names of the instructions that functions decode, not layouts."""


def instruction_names() -> frozenset[str]:
    """Every name that `decode` gives an instruction."""
    tables: tuple[dict[Any, Layout], ...] = (
        *(_SYSTEM, _STAKE, _VOTE, _TOKEN, _TOKEN_EXTENSIONS, _TOKEN_METADATA),
        *(_ASSOCIATED_TOKEN, _COMPUTE_BUDGET, _LOOKUP_TABLE, _LOADER, _UPGRADEABLE_LOADER),
    )
    return frozenset(layout.name for table in tables for layout in table.values()).union(_TOLD_APART)


@cache
def shape_of(program_id: str, tag: bytes, account_count: int) -> Shape | None:
    """The shape of instructions of a program that begin with these bytes, or None where each must be decoded alone.

    Args:
        program_id: account of the program, base58.
        tag: the first `tag_size(program_id)` bytes of the data.
        account_count: how many accounts the instruction was passed.
    """
    program, size, layouts = _BY_TAG[program_id]
    if len(tag) != size or (account_count == 0 and program_id != COMPUTE_BUDGET):
        return None
    layout = layouts.get(int.from_bytes(tag, "little"))
    return layout.shape(program, account_count) if layout else None


def tag_size(program_id: str) -> int:
    """Bytes that tell a program's instructions apart; 0 where it takes more than that."""
    entry = _BY_TAG.get(program_id)
    return entry[1] if entry else 0


def decode(program_id: str, data: bytes, account_count: int) -> Decoded | None:
    """The instruction decoded, or None where this project does not decode it or its layout does not fit.

    Args:
        program_id: account of the program, base58.
        data: the instruction's raw data.
        account_count: how many accounts it was passed.
    """
    decoder = DECODERS.get(program_id)
    if decoder is None:
        return None
    try:
        return decoder(data, account_count)
    except (ValueError, KeyError, IndexError):
        return None
