"""The test vectors of docs/chain.md, read twice: by the code here, and by none of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blyan.chain.block import Header, InvalidBlockError, read_block
from blyan.chain.log import Log, Trust, entry_hash, is_consistent, is_entry, read_head
from blyan.chain.merkle import Tree, is_included, leaf_hash
from blyan.ed25519 import SigningKey
from tests import chain_oracle as oracle

DOCS = Path(__file__).resolve().parents[2] / "docs"
VECTORS: dict[str, Any] = json.loads((DOCS / "chain-vectors.json").read_text(encoding="utf-8"))
BLOCKS, REFUSED, LOG = VECTORS["blocks"], VECTORS["refused"], VECTORS["log"]


def unhex(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


@pytest.mark.parametrize("vector", BLOCKS, ids=lambda vector: vector["hash"][:8])
def test_a_block_by_nothing_but_libraries(vector: dict[str, str]) -> None:
    raw = vector["header"].encode()
    header = json.loads(raw)
    assert rfc8785.dumps(header) == raw
    assert hashlib.sha256(raw).hexdigest() == vector["hash"]
    payload = bytes.fromhex(vector["payload"])
    assert (header["payload_sha256"], header["payload_size"]) == (hashlib.sha256(payload).hexdigest(), len(payload))
    message = b"blyan block 1\n" + bytes.fromhex(vector["hash"])
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(header["producer"])).verify(bytes.fromhex(vector["signature"]), message)
    (seed,) = (key["seed"] for key in VECTORS["keys"] if key["public"] == header["producer"])
    assert Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).sign(message).hex() == vector["signature"]
    assert header["network"] == VECTORS["network"]


@pytest.mark.parametrize("vector", BLOCKS, ids=lambda vector: vector["hash"][:8])
def test_a_block_by_the_code(vector: dict[str, str]) -> None:
    assert read_block(vector["header"].encode(), vector["signature"]).hash == vector["hash"]


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector["why"])
def test_what_must_be_refused_is(vector: dict[str, str]) -> None:
    with pytest.raises(InvalidBlockError) as caught:
        read_block(vector["header"].encode(), vector["signature"])
    assert caught.value.field == vector["field"]


def test_the_small_order_vector_is_one_that_openssl_accepts() -> None:
    (vector,) = (vector for vector in REFUSED if vector["why"] == "a producer of small order")
    header = json.loads(vector["header"])
    message = b"blyan block 1\n" + hashlib.sha256(vector["header"].encode()).digest()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(header["producer"])).verify(bytes.fromhex(vector["signature"]), message)
    (shifted,) = (vector for vector in REFUSED if vector["why"].startswith("s plus"))
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(json.loads(shifted["header"])["producer"])).verify(
            bytes.fromhex(shifted["signature"]), message
        )


@pytest.mark.parametrize("vector", VECTORS["merkle"]["trees"], ids=lambda vector: f"{vector['arity']}-{vector['leaves']}")
def test_trees(vector: dict[str, Any]) -> None:
    leaves = [leaf_hash(bytes([number]) * 3) for number in range(vector["leaves"])]
    assert leaves == [hashlib.sha256(b"\0" + bytes([number]) * 3).digest() for number in range(vector["leaves"])]
    assert Tree(leaves, vector["arity"]).root().hex() == vector["root"] == oracle.root(leaves, vector["arity"]).hex()
    if leaves:
        shown = {place: leaves[place] for place in vector["places"]}
        assert is_included(shown, len(leaves), vector["arity"], unhex(vector["proof"]), bytes.fromhex(vector["root"]))


def test_the_log_and_its_proofs() -> None:
    blocks = [vector for vector in BLOCKS if json.loads(vector["header"])["chain"] == LOG["chain"]]
    entries = [bytes.fromhex(vector["hash"] + vector["signature"]) for vector in blocks]
    roots = unhex(LOG["roots"])
    assert roots == [oracle.mth(entries[:size]) for size in range(len(entries) + 1)]
    log = Log([entry_hash(vector["hash"], vector["signature"]) for vector in blocks])
    for vector in LOG["inclusion"]:
        height, size, proof = vector["height"], vector["size"], unhex(vector["proof"])
        assert log.inclusion(height, size) == proof
        assert is_entry(log.leaves[height], height, size, proof, roots[size])
        assert oracle.root_from_path(log.leaves[height], height, size, proof) == roots[size]
    for vector in LOG["consistency"]:
        old, new, proof = vector["old"], vector["new"], unhex(vector["proof"])
        assert log.consistency(old, new) == proof
        assert is_consistent(old, new, roots[old], roots[new], proof)
        assert oracle.consistent(old, new, roots[old], roots[new], proof)


def test_the_signed_head() -> None:
    signed = read_head(VECTORS["head"]["signed"].encode())
    text = json.loads(VECTORS["head"]["signed"])
    assert rfc8785.dumps(text) == VECTORS["head"]["signed"].encode()
    message = b"blyan tree head 1\n" + hashlib.sha256(rfc8785.dumps(text["head"])).digest()
    assert signed.head.message() == message == bytes.fromhex(VECTORS["head"]["message"])
    for key, signature in text["signatures"].items():
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), message)
    Trust(frozenset(key["public"] for key in VECTORS["keys"]), 2).check(signed)
    assert (text["head"]["root"], text["head"]["size"]) == (LOG["roots"][7], 7)


def test_the_keys() -> None:
    assert [SigningKey(bytes.fromhex(key["seed"])).public.hex() for key in VECTORS["keys"]] == [key["public"] for key in VECTORS["keys"]]


def test_the_page_has_every_field_of_a_header_in_its_order() -> None:
    table = (DOCS / "chain.md").read_text(encoding="utf-8").partition("| field | is |")[2].partition("\n\n")[0]
    names = [name for line in table.splitlines() if line.startswith("| `") for name in line.split("|")[1].replace("`", "").replace(",", "").split()]
    assert tuple(names) == Header.__struct_fields__
