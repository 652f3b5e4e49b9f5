"""The tokenizer: any text comes back, no text becomes a control token, and the same documents train the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.registry import load_registry
from blyan.corpus.tokenizer import (
    ALIASES,
    CONTROL,
    END,
    PAD,
    Tokenizer,
    change_between,
    own_names,
    spelled,
    train,
    with_control_tokens,
)
from blyan.errors import PermanentError
from blyan.solana.programs import instruction_names

NAMES = own_names(load_registry())
REPOSITORY = Path(__file__).parents[2]


def documents(seed: int, count: int) -> list[str]:
    """Texts in the manner of the renderer."""
    draw = random.Random(seed)
    words = ["paid", "sent", "received", "with", "accounts", "failed", "in", "owner", "mint", "SOL", "wSOL", "USDC", "to", "by", "Zürich"]

    def line() -> str:
        made = [draw.choice(NAMES)]
        for _ in range(draw.randrange(1, 9)):
            number = f"{draw.randrange(10 ** draw.randrange(1, 12))}" + draw.choice(["", f".{draw.randrange(10**6)}", ".", ","])
            made.append(draw.choice([draw.choice(words), f"@{draw.randrange(40)}", number, draw.choice(NAMES)]))
        return " ".join(made)

    return ["\n".join(draw.choice(["", "> "]) * bool(at) + line() for at in range(draw.randrange(1, 7))) for _ in range(count)]


TRAINED = documents(1, 400)
DEFINITION = train(TRAINED, NAMES, size=4_096)
TOKENIZER = Tokenizer(DEFINITION)


def stock(definition: bytes, texts: list[str]) -> list[list[int]]:
    """What the library itself makes of whole texts."""
    from tokenizers import Tokenizer as Library

    return [each.ids for each in Library.from_str(definition.decode()).encode_batch(texts, add_special_tokens=False)]


def encoded(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    made = tokenizer.encode(pa.array(texts, pa.string()))
    assert made.tokens.dtype == np.uint16
    assert made.offsets[-1] == len(made.tokens)
    return [made.tokens[first:last].tolist() for first, last in zip(made.offsets[:-1], made.offsets[1:], strict=True)]


ODD = st.sampled_from(
    [*CONTROL, "<|endoftext|>", "<|end|>", "[UNK]", "\x00", "\r\n", "\u200b", "🎉", "\U000e0041", "߁", "½", "é", "e\u0301", "\ufeff"]
)
PARTS = st.one_of(
    st.text(max_size=6),
    ODD,
    st.sampled_from(NAMES),
    st.sampled_from(
        [
            " ",
            "\n",
            "\n> ",
            "> ",
            "@",
            ".",
            ",",
            "_",
            "-",
            "0",
            "7",
            "12",
            "1.5",
            " 3.25",
            "@0",
            " @7",
            "@255",
            "@256",
            "@01",
            "@1234",
            "v",
            "v4",
            "SPL",
        ]
    ),
)
TEXTS = st.lists(PARTS, max_size=14).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_any_text_comes_back_and_its_tokens_are_those_of_the_stock_library(texts: list[str]) -> None:
    found = encoded(TOKENIZER, texts)
    assert found == stock(DEFINITION, texts)
    assert [TOKENIZER.decode(np.array(tokens, np.uint16)) for tokens in found] == texts
    assert not {TOKENIZER.end, TOKENIZER.pad} & {token for tokens in found for token in tokens}


def test_documents_are_encoded_as_the_stock_library_does_it_wherever_they_lie_in_an_array() -> None:
    texts = documents(2, 300)
    array = pa.array(["before", *texts, "", "after"]).slice(1, len(texts) + 1)
    made = TOKENIZER.encode(array)
    assert np.split(made.tokens, made.offsets[1:-1])[7].tolist() == stock(DEFINITION, [texts[7]])[0]
    assert encoded(TOKENIZER, [*texts, ""]) == stock(DEFINITION, [*texts, ""])
    assert len(TOKENIZER.encode(pa.array([], pa.string())).tokens) == 0


def test_the_comparison_above_would_notice_a_cut_in_a_wrong_place() -> None:
    """A number after a letter, and a line that begins in a name, must not be cut: the tokens differ if they are."""
    for whole, parts in [("SPL Token", ["SPL", " Token"]), (" sent 5", [" sent ", "5"]), ("@12", ["@1", "2"])]:
        assert stock(DEFINITION, [whole])[0] != [token for tokens in stock(DEFINITION, parts) for token in tokens]


def test_names_with_numbers_apart_are_not_cut() -> None:
    """A registry may name a mint `Token 2 Go`: the number is then part of the name."""
    for name, texts in {
        "Token 2 Go": ["@0 sent 5 Token 2 Go to @1", "Token 2 Gone", "2 Token 2 Go 2"],
        "Level 9": ["Level 9", "Level 95", "paid 3 of Level 9.5"],
        "2Z": ["to 2Z", "2Z", " 12Z", " 1.2Z"],
        ".5x": [" 3.5x", " 3.5", ".5x", " 3.5x5"],
        "7": [" 7", " 77", "7"],
    }.items():
        definition = train(TRAINED, [*NAMES, name], size=4_096)
        assert encoded(Tokenizer(definition), texts) == stock(definition, texts), name
        assert spelled(name) in {token.removeprefix("Ġ") for token in Tokenizer(definition).tokens_of(texts[0])}, name


def test_a_definition_with_another_pattern_is_encoded_whole() -> None:
    """A tokenizer of an older form keeps its tokens when the pattern here changes."""
    value = json.loads(DEFINITION)
    value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|never"
    other = json.dumps(value).encode()
    texts = documents(3, 20)
    assert encoded(Tokenizer(other), texts) == stock(other, texts)


def test_every_name_is_one_token_with_a_space_before_it_or_without() -> None:
    for name in NAMES:
        assert TOKENIZER.tokens_of(name) == [spelled(name)]
        assert TOKENIZER.tokens_of(f"@0 {name} succeeded")[1] == spelled(f" {name}")
    assert len(NAMES) > 200


def test_every_alias_is_one_token_and_every_digit_is() -> None:
    for number in range(ALIASES):
        assert TOKENIZER.tokens_of(f"@{number} sent")[0] == f"@{number}"
        assert TOKENIZER.tokens_of(f" sent @{number}, ")[1] == f"Ġ@{number}"
    assert TOKENIZER.tokens_of("@256") == ["@", "2", "5", "6"]
    assert TOKENIZER.tokens_of(" sent 1234.50 SOL") == ["ĠsentĠ", *"1234.50", "ĠSOL"]
    vocabulary = json.loads(DEFINITION)["model"]["vocab"]
    digits = {token for token in vocabulary if any(c.isdigit() and c.isascii() for c in token) and "@" not in token}
    assert digits - {spelled(space + name) for name in NAMES for space in ("", " ")} == set("0123456789")


def test_instruction_names_have_tokens() -> None:
    assert {"transferChecked", "towersync", "createAccountWithSeed", "extendLookupTable"} <= instruction_names() <= set(NAMES)


def test_control_tokens_come_first_and_are_written_as_no_text_is() -> None:
    vocabulary = json.loads(DEFINITION)["model"]["vocab"]
    assert (vocabulary[END], vocabulary[PAD]) == (0, 1)
    assert (TOKENIZER.end, TOKENIZER.pad) == (0, 1)
    assert TOKENIZER.decode(np.array([0, 1, 0])) == ""
    assert json.loads(DEFINITION)["added_tokens"] == [], "an added token would be found in text"
    assert len(vocabulary) == TOKENIZER.size <= 4_096


def test_a_control_token_that_text_can_become_is_why_they_have_a_space() -> None:
    """The negative control: the same name without a space, in the vocabulary or among the added tokens, is what the text says."""
    from tokenizers import Tokenizer as Library

    library = Library.from_str(DEFINITION.decode())
    library.add_special_tokens(["<|end|>"])
    assert library.encode("a<|end|>").ids[-1] == library.token_to_id("<|end|>")
    assert not set(CONTROL) & set(Library.from_str(DEFINITION.decode()).encode(" ".join(CONTROL)).tokens)


def test_training_does_not_depend_on_order_or_threads(tmp_path: Path) -> None:
    shuffled = TRAINED[:]
    random.Random(3).shuffle(shuffled)
    assert train(iter(shuffled), NAMES[::-1], size=4_096) == DEFINITION
    (tmp_path / "texts.json").write_text(json.dumps(TRAINED[::-1]))
    code = (
        "import hashlib, json, sys; from blyan.corpus.registry import load_registry; from blyan.corpus.tokenizer import own_names, train;"
        "print(hashlib.sha256(train(json.load(open(sys.argv[1])), own_names(load_registry()), size=4096)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAYON_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "texts.json")], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TOKENIZER.sha256


def test_other_documents_train_other_bytes() -> None:
    assert train(documents(9, 400), NAMES, size=4_096) != DEFINITION


@pytest.mark.parametrize(("size", "names"), [(300, NAMES), (65_537, NAMES), (4_096, ["@7"]), (4_096, ["é"]), (4_096, [" x"]), (4_096, [""])])
def test_what_cannot_be_trained_is_refused(size: int, names: list[str]) -> None:
    with pytest.raises(PermanentError):
        train(TRAINED, names, size=size)


@pytest.mark.parametrize("definition", [b"", b"{}", b"\xff", DEFINITION[:-9], DEFINITION.replace(b'"<| padding |>":1', b'"<| padding |>":99999')])
def test_bytes_that_are_no_tokenizer_are_refused(definition: bytes) -> None:
    with pytest.raises(PermanentError, match="no tokenizer"):
        Tokenizer(definition)


def test_more_control_tokens_are_a_minor_change_that_leaves_every_encoding() -> None:
    more = with_control_tokens(DEFINITION, ["<| call |>", "<| answer |>"])
    assert change_between(DEFINITION, DEFINITION) == "none"
    assert change_between(DEFINITION, more) == "minor"
    assert change_between(more, DEFINITION) == "major", "tokens that shards may hold are gone"
    texts = [*documents(4, 50), "<| call |>", " ".join(CONTROL)]
    assert encoded(Tokenizer(more), texts) == encoded(TOKENIZER, texts)
    assert Tokenizer(more).size == TOKENIZER.size + 2
    for name in ("<|call|>", END):
        with pytest.raises(PermanentError):
            with_control_tokens(DEFINITION, [name])


def changed(**model: object) -> bytes:
    value = json.loads(DEFINITION)
    value["model"] |= model
    return json.dumps(value).encode()


def test_any_other_change_is_major_because_some_text_has_other_tokens() -> None:
    value = json.loads(DEFINITION)["model"]
    reachable = changed(vocab=value["vocab"] | {"<|call|>": len(value["vocab"]), "zzz": len(value["vocab"]) + 1})
    assert change_between(DEFINITION, reachable) == "major"
    assert encoded(Tokenizer(reachable), ["zzz"]) != encoded(TOKENIZER, ["zzz"])
    for other in (
        changed(merges=value["merges"][1:]),
        changed(ignore_merges=False),
        train(TRAINED, [*NAMES, "Zzz Zzz"], size=4_096),
        train(TRAINED, NAMES, size=1_900),
        changed(vocab={token: len(value["vocab"]) - 1 - number for token, number in value["vocab"].items()}),
    ):
        assert change_between(DEFINITION, other) == "major"


def test_bytes_of_tokens_are_put_together_without_the_library() -> None:
    texts = documents(5, 40)
    made = TOKENIZER.encode(pa.array(texts))
    data, edges = TOKENIZER.bytes_of(made.tokens)
    assert data.tobytes() == "".join(texts).encode()
    first = made.tokens[: made.offsets[1]].copy()
    assert data[: edges[made.offsets[1]]].tobytes() == texts[0].encode()
    first[0] = (first[0] + 1) % TOKENIZER.size
    assert TOKENIZER.decode(first) != texts[0]
