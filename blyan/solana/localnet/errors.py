"""The errors that a Solana node answers with: codes and words as of Agave.

Belongs here: one function per error. Does not belong here: when to answer so (`blyan.solana.localnet.rpc`), or what a client
makes of it (`blyan.solana.jsonrpc`).
"""

from __future__ import annotations

from typing import Any


class RpcError(Exception):
    """An answer to a request, not a failure of the server.

    Attributes:
        code: of JSON-RPC, or Solana's.
        message: for people, though clients read it.
        data: what some errors carry besides.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def body(self) -> dict[str, Any]:
        """The `error` of a response."""
        body = {"code": self.code, "message": self.message}
        return body if self.data is None else {**body, "data": self.data}


def parse_error() -> RpcError:
    """The request is not JSON."""
    return RpcError(-32700, "Parse error")


def invalid_request(message: str = "Invalid request") -> RpcError:
    """The request is not JSON-RPC, or asks what this encoding cannot do."""
    return RpcError(-32600, message)


def method_not_found() -> RpcError:
    """No such method."""
    return RpcError(-32601, "Method not found")


def invalid_params(message: str) -> RpcError:
    """A parameter is missing or of the wrong form."""
    return RpcError(-32602, message)


def cleaned_up(slot: int, first: int) -> RpcError:
    """The ledger was pruned past the slot."""
    return RpcError(-32001, f"Block {slot} cleaned up, does not exist on node. First available block: {first}")


def preflight_failure(reason: str, error: Any, logs: list[str], units: int = 0) -> RpcError:
    """The simulation before sending failed.

    Args:
        reason: the error in words.
        error: the error in the form of RPC.
        logs: what the programs logged.
        units: compute units used.
    """
    data = {"accounts": None, "err": error, "innerInstructions": None, "logs": logs, "returnData": None, "unitsConsumed": units}
    return RpcError(-32002, f"Transaction simulation failed: {reason}", data)


def signature_failure() -> RpcError:
    """A signature is missing or does not verify."""
    return RpcError(-32003, "Transaction signature verification failure")


def not_available(slot: int) -> RpcError:
    """The slot is after the tip of the commitment asked for, or not on its chain."""
    return RpcError(-32004, f"Block not available for slot {slot}")


def behind(slots: int) -> RpcError:
    """The node lags."""
    return RpcError(-32005, f"Node is behind by {slots} slots", {"numSlotsBehind": slots})


def skipped(slot: int) -> RpcError:
    """The slot is finalized without a block, as the ledger of a node tells it."""
    return RpcError(-32007, f"Slot {slot} was skipped, or missing due to ledger jump to recent snapshot")


def skipped_in_storage(slot: int) -> RpcError:
    """The slot is finalized without a block, as a node with long-term storage tells it."""
    return RpcError(-32009, f"Slot {slot} was skipped, or missing in long-term storage")


def status_not_available(slot: int) -> RpcError:
    """The block is there, the statuses of its transactions are not written yet."""
    return RpcError(-32014, f"Block status not yet available for slot {slot}")


def unsupported_version(version: int) -> RpcError:
    """The client did not say that it reads this version."""
    return RpcError(
        -32015,
        f"Transaction version ({version}) is not supported by the requesting client. "
        f'Please try the request again with the following configuration parameter: "maxSupportedTransactionVersion": {version}',
    )


def slot_not_reached(context_slot: int) -> RpcError:
    """The node is not at `minContextSlot` yet."""
    return RpcError(-32016, "Minimum context slot has not been reached", {"contextSlot": context_slot})
