"""The commands `blyan chain …`.

Belongs here: arguments, and what people read. Does not belong here: work. As in `blyan.cli`, what is slow to import is imported by the command
that needs it. A report that names a fault ends with exit code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from blyan.chain.block import Block, Ref
    from blyan.chain.log import Trust
    from blyan.chain.store import Chains
    from blyan.chain.verify import Report

app = typer.Typer(help="Three chains of signed blocks: A (rules), B (parameters of models), D (datasets).", no_args_is_help=True)

Chain = Literal["A", "B", "D"]
Output = Literal["table", "json"]

ChainArgument = Annotated[Chain, typer.Argument(metavar="A|B|D", help="The chain.")]
KeyOption = Annotated[Path, typer.Option("--key", help="File of the key that signs; `blyan chain key` makes one.")]
ColdOption = Annotated[str | None, typer.Option("--cold", help="Where pruned payloads went: a folder or a bucket.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table or json.")]
TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="KEY", help="Public key whose checkpoints count; again for each. Unset: those that chain A names."),
]
ThresholdOption = Annotated[int | None, typer.Option("--threshold", min=1, help="How many of them must have signed. Unset: all of --trust.")]
NetworkOption = Annotated[str | None, typer.Option("--network", metavar="ID", help="The network that it must be.")]


@app.command()
def key(path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to keep it; only its owner may read it.")]) -> None:
    """Make a signing key; its public key is shown."""
    from blyan.ed25519 import SigningKey

    typer.echo(SigningKey.create(path).public.hex())


@app.command()
def found(
    name: Annotated[str, typer.Option(help="Of the network.")],
    pact: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="File with the text that everybody agrees to.")],
    voter: Annotated[list[str], typer.Option(metavar="KEY", help="Public key that votes on parameters; again for each.")],
    key: KeyOption,
    checkpoint: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Public key that signs checkpoints; again for each.")] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many of them make a checkpoint.")] = 1,
    parameter: Annotated[list[str] | None, typer.Option(metavar="NAME=JSON", help="A parameter of the network; again for each.")] = None,
) -> None:
    """Begin a network in the lake: its rules, and the first block of each chain."""
    from blyan.chain.governance import genesis_payload
    from blyan.ed25519 import SigningKey

    parameters: dict[str, Any] = {**_parameters(parameter or []), "voting_keys": sorted(set(voter))}
    if checkpoint:
        parameters["checkpoint"] = {"keys": sorted(set(checkpoint)), "threshold": threshold}
    blocks = _chains().found(SigningKey.load(key), genesis_payload(name, pact.read_text(encoding="utf-8"), parameters))
    typer.echo(f"network {blocks['A'].header.network}")
    for block in blocks.values():
        _tell(block)


@app.command()
def append(
    chain: ChainArgument,
    kind: Annotated[str, typer.Option(help="What the payload is, such as dataset.")],
    key: KeyOption,
    payload: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="File with the payload. Unset: none.")] = None,
    depends_on: Annotated[list[str] | None, typer.Option(metavar="CHAIN:HEIGHT", help="A block that it depends on; again for each.")] = None,
    semver: Annotated[str | None, typer.Option(help="Version of the payload.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="An object that says more.")] = None,
) -> None:
    """Make a block on the newest one, sign it and append it."""
    from blyan.ed25519 import SigningKey

    chains = _chains()
    refs = [_ref(chains, text) for text in depends_on or []]
    more = _json(metadata, "--metadata") if metadata else None
    _tell(chains.write(SigningKey.load(key), chain, kind, payload or b"", depends_on=refs, semver=semver, metadata=more))


@app.command()
def propose(
    change: Annotated[list[str], typer.Option(metavar="NAME=JSON", help="A parameter and its new value; again for each.")],
    effective_height: Annotated[int, typer.Option(min=1, help="Height of A at which it takes effect, 30 days from now at the earliest.")],
    key: KeyOption,
) -> None:
    """Propose other parameters: a block of A. Anybody may; more than three quarters of the voting keys must approve."""
    from blyan.chain.governance import PROPOSAL, proposal_payload
    from blyan.ed25519 import SigningKey

    _tell(_chains().write(SigningKey.load(key), "A", PROPOSAL, proposal_payload(_parameters(change), effective_height)))


@app.command()
def vote(
    proposal: Annotated[int, typer.Argument(min=1, help="Height of the proposal in A.")],
    key: KeyOption,
    against: Annotated[bool, typer.Option("--against", help="Vote against it; the last vote of a key counts.")] = False,
) -> None:
    """Vote for a proposal, or against it: a block of A."""
    from blyan.chain.governance import VOTE
    from blyan.ed25519 import SigningKey

    chains = _chains()
    ref = chains.block("A", proposal).ref
    _tell(chains.write(SigningKey.load(key), "A", VOTE, depends_on=[ref], metadata={"approve": not against}))


@app.command()
def parameters(height: Annotated[int | None, typer.Option(min=0, help="Height of A. Unset: the next block's.")] = None) -> None:
    """Show the parameters in force at a height of A."""
    governance = _chains().governance()
    _echo_json({"height": governance.size if height is None else height, **governance.at(governance.size if height is None else height)})


@app.command()
def show(chain: ChainArgument, height: Annotated[int, typer.Argument(min=0)]) -> None:
    """Show a block: header, hash, signature, and what depends on it directly."""
    from blyan.chain.block import read_block
    from blyan.chain.dag import Graph

    chains = _chains()
    row = chains.row(chain, height)
    block = read_block(row.header, row.signature)
    dependents = [f"{where}:{at}" for where, at in Graph.read(chains).dependents.get((chain, height), ())]
    _echo_json({"hash": block.hash, "header": block.header, "signature": block.signature, "dependents": dependents})


@app.command(name="log")
def list_blocks(
    chain: ChainArgument,
    first: Annotated[int | None, typer.Option(min=0, help="First height. Unset: the last 20 blocks.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many blocks.")] = 20,
) -> None:
    """List blocks, the oldest first."""
    from blyan.chain.block import Block, read_header

    chains = _chains()
    size = chains.size(chain)
    start = max(size - count, 0) if first is None else first
    for row in chains.rows(chain, start, min(start + count, size)):
        _tell(Block(row.header, row.signature, read_header(row.header)))


@app.command()
def verify(
    chain: Annotated[Chain | None, typer.Argument(metavar="[A|B|D]", help="The chain. Unset: all.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Only what came since it was verified the last time.")] = False,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="From the newest checkpoint on.")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many blocks, chosen at random.")] = None,
    network: NetworkOption = None,
    trust: TrustOption = None,
    threshold: ThresholdOption = None,
    cold: ColdOption = None,
    output: OutputOption = "table",
) -> None:
    """Verify chains: every field, link, signature, payload and dependency."""
    from blyan.chain import marks
    from blyan.chain.block import CHAINS
    from blyan.chain.checkpoints import newest
    from blyan.chain.verify import verify_from, verify_full, verify_new, verify_sampled
    from blyan.errors import PermanentError

    if new + checkpoint + (sample is not None) > 1:
        raise PermanentError("--new, --checkpoint and --sample are three ways", where="blyan chain verify", remedy="choose one")
    chains = _chains(cold)
    if network is not None and (new or checkpoint or sample is not None) and chains.network != network:
        what = f"the lake has network {chains.network[:12]}, and {network[:12]} is wanted"
        raise PermanentError(what, where="blyan chain verify", remedy="name another lake")
    reports = []
    for name in [chain] if chain else CHAINS:
        if new:
            report = verify_new(chains, name)
        elif sample is not None:
            report = verify_sampled(chains, name, sample)
        elif checkpoint and name != "A":
            keys = _trust(chains, trust, threshold)
            signed = newest(marks.heads(chains.lake.store, name), keys)
            if signed is None:
                raise PermanentError(
                    f"there is no checkpoint of {name} that counts", where=f"chain {name}", remedy="`blyan chain checkpoint`, or verify in full"
                )
            report = verify_from(chains, signed, keys)
        else:
            report = verify_full(chains, name, network=network)
        reports.append(report)
    _tell_reports(reports, output)


@app.command()
def checkpoint(chain: ChainArgument, key: KeyOption) -> None:
    """Verify what is new of a chain and sign its head. With the signatures of enough keys it is a checkpoint."""
    from blyan.chain.checkpoints import sign
    from blyan.ed25519 import SigningKey

    typer.echo(sign(_chains(), chain, SigningKey.load(key)).encoded().decode())


@app.command()
def witness(
    chain: ChainArgument,
    memory: Annotated[Path, typer.Option(file_okay=False, help="Folder in which the witness remembers.")],
    key: KeyOption,
    log_key: Annotated[list[str], typer.Option(metavar="KEY", help="Public key of the node; again for each.")],
    network: Annotated[str, typer.Option(metavar="ID", help="The network that it looks at.")],
) -> None:
    """Sign the newest head of a chain, if it begins with all that was signed before; refuse a fork or a rollback."""
    from blyan.chain import marks
    from blyan.chain.checkpoints import log_of, newest
    from blyan.chain.log import Trust
    from blyan.chain.witness import Witness
    from blyan.ed25519 import SigningKey
    from blyan.errors import PermanentError

    chains = _chains()
    logs = Trust(frozenset(log_key), len(set(log_key)))
    observer = Witness(memory, SigningKey.load(key), network=network, logs=logs)
    head = newest(marks.heads(chains.lake.store, chain), logs)
    if head is None:
        raise PermanentError(f"the node has signed no head of {chain}", where=f"chain {chain}", remedy="`blyan chain checkpoint` signs one")
    known = observer.known(chain)
    proof = [] if known is None or known.size > head.head.size else log_of(chains, chain).consistency(known.size, head.head.size)
    signed = observer.observe(head, proof)
    marks.put_head(chains.lake.store, signed)
    typer.echo(signed.encoded().decode())


@app.command()
def prune(
    chain: Annotated[Literal["B", "D"], typer.Argument(metavar="B|D", help="The chain.")],
    cold: Annotated[str, typer.Option(help="Where the payloads go: a folder or a bucket.")],
    trust: TrustOption = None,
    threshold: ThresholdOption = None,
) -> None:
    """Move payloads below the newest checkpoint to cold storage. Headers stay."""
    from blyan.chain import marks
    from blyan.chain.checkpoints import newest
    from blyan.chain.pruning import prune as prune_chain
    from blyan.errors import PermanentError

    chains = _chains()
    keys = _trust(chains, trust, threshold)
    signed = newest(marks.heads(chains.lake.store, chain), keys)
    if signed is None:
        raise PermanentError(f"there is no checkpoint of {chain} that counts", where=f"chain {chain}", remedy="`blyan chain checkpoint` signs one")
    done = prune_chain(chains, signed, keys, _store(cold))
    typer.echo(f"{done.payloads} payloads, {done.payload_bytes} bytes, of blocks below {done.below} are in {cold}")


@app.command(name="export")
def export_chain(
    chain: ChainArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; - is the standard output.")],
    first: Annotated[int, typer.Option(min=0, help="First height.")] = 0,
    cold: ColdOption = None,
) -> None:
    """Write blocks and payloads as lines of JSON."""
    from blyan.chain.exchange import export

    lines = export(_chains(cold), chain, first)
    if str(path) == "-":
        for line in lines:
            sys.stdout.buffer.write(line)
        return
    with path.open("wb") as file:
        file.writelines(lines)


@app.command(name="import")
def import_chain(
    path: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What `blyan chain export` wrote.")],
    network: NetworkOption = None,
) -> None:
    """Verify the blocks of a file and append those that are not here."""
    from blyan.chain.exchange import import_lines

    with path.open("rb") as file:
        chain, count = import_lines(_chains(), file, network=network)
    typer.echo(f"{count} blocks of {chain} are new")


@app.command()
def sync(
    peer: Annotated[str, typer.Argument(metavar="LAKE", help="The other node's lake: a folder or a bucket.")],
    fast: Annotated[bool, typer.Option("--fast", help="Headers of B and D below a checkpoint are taken as signed, without payloads.")] = False,
    network: NetworkOption = None,
    trust: TrustOption = None,
    threshold: ThresholdOption = None,
    cold: ColdOption = None,
) -> None:
    """Bring the chains to where another node's are; cut off, it goes on when it is run again."""
    from blyan.chain.store import Chains
    from blyan.chain.sync import LakePeer
    from blyan.chain.sync import sync as sync_chains
    from blyan.lake import Lake
    from blyan.settings import load_settings

    settings = load_settings()
    theirs = Lake(peer, delta_options=settings.delta_options, file_options=settings.file_options)
    other = Chains(theirs, cold=_store(cold) if cold else None)
    keys = _trust(None, trust, threshold) if trust else None
    for done in sync_chains(_chains(), LakePeer(other), network=network, fast=fast, trust=keys).values():
        typer.echo(f"{done.chain}: {done.size} blocks, {done.verified} verified now, {done.trusted} by a checkpoint")


def _chains(cold: str | None = None) -> Chains:
    from blyan.chain.store import Chains
    from blyan.lake import Lake
    from blyan.settings import load_settings

    return Chains(Lake.from_settings(load_settings()), cold=_store(cold) if cold else None)


def _store(root: str) -> Any:
    from blyan.settings import load_settings
    from blyan.store import Store

    return Store(root, load_settings().file_options)


def _trust(chains: Chains | None, keys: list[str] | None, threshold: int | None) -> Trust:
    """The keys that were named, or those of the network."""
    from blyan.chain.log import Trust
    from blyan.errors import PermanentError

    if keys:
        return Trust(frozenset(keys), threshold or len(set(keys)))
    if chains is None or threshold is not None:
        raise PermanentError("--threshold is of the keys of --trust", where="blyan chain", remedy="name the keys too")
    return chains.governance().trust()


def _ref(chains: Chains, text: str) -> Ref:
    from blyan.errors import PermanentError

    chain, _, height = text.partition(":")
    if not height.isdecimal():
        raise PermanentError(f"{text!r} names no block", where="--depends-on", remedy="write the chain and the height, such as D:12")
    return chains.block(chain, int(height)).ref


def _parameters(texts: list[str]) -> dict[str, Any]:
    return {name: _json(value, name) for name, _, value in (text.partition("=") for text in texts)}


def _json(text: str, where: str) -> Any:
    import json

    from blyan.errors import PermanentError

    try:
        return json.loads(text)
    except ValueError as error:
        raise PermanentError(f"{text!r} is not JSON: {error}", where=where, remedy='write text in quotes, such as NAME="text"') from error


def _echo_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _tell(block: Block) -> None:
    header = block.header
    semver = f" {header.semver}" if header.semver else ""
    depends_on = " on " + ", ".join(f"{ref.chain}:{ref.height}" for ref in header.depends_on) if header.depends_on else ""
    typer.echo(f"{header.chain}:{header.height} {block.hash} {header.kind}{semver}, {header.payload_size} bytes{depends_on}")


def _tell_reports(reports: list[Report], output: Output) -> None:
    if output == "json":
        _echo_json([{"good": report.good, **{name: getattr(report, name) for name in report.__dataclass_fields__}} for report in reports])
    else:
        for report in reports:
            trusted = f", {report.trusted} by a checkpoint" if report.trusted else ""
            absent = f", {report.absent} pruned" if report.absent else ""
            state = f"{report.fault_count} faults" if not report.good else "good" if report.size else "no blocks"
            typer.echo(
                f"{report.chain} ({report.mode}): {state}; {report.blocks} of {report.size} blocks{trusted}, {report.signatures} signatures, "
                f"{report.payloads} payloads of {report.payload_bytes} bytes{absent}"
            )
            for fault in report.faults:
                typer.echo(f"  {fault.chain}:{fault.height} {fault.field}: {fault.what}")
    if not all(report.good for report in reports):
        raise typer.Exit(1)
