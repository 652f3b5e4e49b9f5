"""What a query asks for, beside its words: labels, programs, tokens, amounts, accounts.

Belongs here: reading a query. Does not belong here: documents (`blyan.query.conditions`), finding them (`blyan.query.search`), or the names
of programs and tokens (`blyan.corpus.registry`), from which most of the vocabulary is made.

It is a dictionary and a few patterns, no model: the same query always means the same, and `explain` says what was understood. What is
not understood loses nothing, because all words are searched for as ever. Only an account, a signature or a slot is exact: nothing
else can be meant by them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from blyan.corpus.registry import Program, Registry
from blyan.corpus.terms import query_terms
from blyan.errors import PermanentError
from blyan.query.conditions import Amount, Check, Condition, Order
from blyan.solana import base58


@dataclass(frozen=True, slots=True)
class Understanding:
    """A query, understood.

    Attributes:
        text: the query without accounts and signatures, with misspelt words of the vocabulary corrected; may be empty.
        conditions: what documents should be.
        order: what most is asked of, or None.
        read_as: words that were read as others.
    """

    text: str
    conditions: tuple[Condition, ...] = ()
    order: Order | None = None
    read_as: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """What full text is searched for: the words of the query, and those of documents that meet its conditions."""
        return " ".join(dict.fromkeys([*self.text.split(), *(word for condition in self.conditions for word in condition.words)]))

    @property
    def parts(self) -> tuple[str, ...]:
        """What was understood, each in words, such as `status = Fail`."""
        parts = [condition.name for condition in self.conditions if condition.name]
        if self.order:
            parts.append(f"{'most' if self.order.descending else 'least'} {self.order.unit} first")
        return (*parts, *(f"{word} read as {other}" for word, other in self.read_as))

    def explain(self) -> str:
        """What was understood, such as `status = Fail, program = Raydium`. Empty if nothing was."""
        return ", ".join(self.parts)


def understand(query: str, registry: Registry) -> Understanding:
    """Read a query.

    Args:
        query: in natural language, English; or accounts, signatures, words, in any mixture.
        registry: names of programs, their errors, and tokens.
    """
    found: list[Condition] = []
    rest = _exact(query, registry, found)
    bare = rest
    _directions(rest, registry, found)
    _codes(rest, found)
    rest = _amounts(rest, registry, found)
    words = re.findall(r"[A-Za-z0-9]+", rest)
    vocabulary = _vocabulary(registry)
    read_as = _corrections(words, vocabulary)
    _phrases([read_as.get(word, word) for word in words], vocabulary, found)
    for word, other in read_as.items():
        bare = re.sub(rf"\b{re.escape(word)}\b", other, bare)
    conditions = tuple({condition.name: condition for condition in found}.values())
    order = _order(bare, conditions)
    scope = _scope(bare, order)
    named = (Condition("", (Check("error_words", tuple(query_terms(bare))),), weight=2),)
    return Understanding(" ".join(bare.split()), (*conditions, *scope, *named), order, tuple(read_as.items()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


# --- accounts, signatures, slots -------------------------------------------------------------------------------------------------------


def programs_named(name: str, registry: Registry) -> tuple[str, ...]:
    """The programs that a name, part of one, or an account means.

    Raises:
        PermanentError: the registry has no such name, and it is no account.
    """
    whole = {_words(program.name): (account,) for account, program in registry.programs.items()}
    known = program_phrases(registry.programs) | whole
    if _words(name) in known:
        return known[_words(name)]
    if _size(name) == _ACCOUNT_BYTES:
        return (name,)
    near = difflib.get_close_matches(name, [program.name for program in registry.programs.values()], 3, 0.4)
    remedy = f"give an account, or a name of the registry{', such as ' + ', '.join(near) if near else ''}"
    raise PermanentError(f"no program is named {name!r}", where="--program", remedy=remedy)


_ACCOUNT_BYTES, _SIGNATURE_BYTES = 32, 64


def _size(text: str) -> int:
    try:
        return len(base58.decode(text))
    except ValueError:
        return 0


_BASE58 = re.compile(r"(?<![A-Za-z0-9])[1-9A-HJ-NP-Za-km-z]{32,88}(?![A-Za-z0-9])")
_SLOT = re.compile(r"\b(?:slot|block)s?\s+(?:number\s+)?#?(\d{1,12})\b", re.IGNORECASE)


def _exact(query: str, registry: Registry, found: list[Condition]) -> str:
    """The query without accounts and signatures; slots stay, since summaries tell theirs in words."""

    def take(match: re.Match[str]) -> str:
        text = match[0]
        if text in registry.mints:
            # Texts have the names of known tokens, and their lists of accounts only those without a name.
            found.append(_token(registry.mints[text].symbol))
            return f" {registry.mints[text].symbol} "
        size = _size(text)
        if size == _SIGNATURE_BYTES:
            found.append(Condition(f"signature = {text}", (Check("signature", (text,)),), weight=4, exact=True))
        elif size == _ACCOUNT_BYTES:
            found.append(Condition(f"account = {text}", (Check("account", (text,)), Check("program", (text,))), weight=4, exact=True))
        else:
            return text
        return " "

    rest = _BASE58.sub(take, query)
    slots = (int(match[1]) for match in _SLOT.finditer(rest))
    found += [Condition(f"slot = {slot}", (Check("slot", (str(slot),)),), weight=4, exact=True) for slot in slots]
    return rest


# --- amounts and codes -----------------------------------------------------------------------------------------------------------------

_NUMBER_WORDS = {
    "a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twenty": 20, "fifty": 50, "hundred": 100,
}  # fmt: skip
_SCALES = {"k": 10**3, "thousand": 10**3, "m": 10**6, "mn": 10**6, "million": 10**6, "b": 10**9, "bn": 10**9, "billion": 10**9, "hundred": 100}
_NUMBER = (
    rf"(?P<dollar{{0}}>\$\s*)?(?:(?P<digits{{0}}>\d[\d,]*(?:\.\d+)?)|(?P<word{{0}}>{'|'.join(_NUMBER_WORDS)})\b)"
    rf"(?:\s*(?P<scale{{0}}>{'|'.join(sorted(_SCALES, key=len, reverse=True))})\b)?"
)
_MORE = r"more than|greater than|larger than|bigger than|over|above|exceeding|at least|no less than|minimum of|>=|>|≥"
_LESS = r"less than|smaller than|lower than|under|below|at most|no more than|up to|maximum of|<=|<|≤"
_INCLUSIVE = re.compile(r"at least|no less|minimum|at most|no more|up to|maximum|=|≥|≤", re.IGNORECASE)


@cache
def _amount_pattern(units: tuple[str, ...]) -> re.Pattern[str]:
    unit = "|".join(re.escape(name) for name in sorted(units, key=len, reverse=True))
    return re.compile(
        rf"(?P<fee>\bfees?\b[\w\s]*?)?(?P<compare>{_MORE}|{_LESS}|between|exactly|=)?\s*{_NUMBER.format(1)}"
        rf"(?:\s*(?:and|to|-)\s*{_NUMBER.format(2)})?(?:\s*(?:of\s+)?(?P<unit>{unit})\b)?",
        re.IGNORECASE,
    )


_UNITS = {
    "sol": "SOL", "wsol": "SOL", "wrapped sol": "SOL", "solana": "SOL", "dollar": "USD", "dollars": "USD", "usd": "USD", "tether": "USDT",
    "compute units": "compute units", "compute unit": "compute units", "cu": "compute units", "cus": "compute units",
}  # fmt: skip


def _amounts(text: str, registry: Registry, found: list[Condition]) -> str:
    """The text without amounts that have a unit, each of which became a condition."""
    units = _UNITS | {mint.symbol.lower(): mint.symbol for mint in registry.mints.values() if mint.symbol != "wSOL"}

    def take(match: re.Match[str]) -> str:
        named, compare = match["unit"], (match["compare"] or "").lower()
        if not named and not match["dollar1"] and compare:
            # `USDC transfers over 1000`: the unit is the last one before.
            named = next((unit for unit in reversed(re.findall(r"\w+", text[: match.start()].lower())) if unit in units), None)
        # A word alone is a number only where it has a scale or is compared: `a SOL transfer` has none.
        if not (named or match["dollar1"]) or (match["word1"] and not (match["scale1"] or compare)):
            return match[0]
        unit = units[named.lower()] if named else "USD"
        first = _number(match, "1")
        second = _number(match, "2") if match["digits2"] or match["word2"] else None
        strict = not _INCLUSIVE.search(compare)
        if compare == "between" and second is not None:
            amount = Amount(unit, first, second, strict=False)
        elif re.fullmatch(_MORE, compare):
            amount = Amount(unit, first, None, strict)
        elif re.fullmatch(_LESS, compare):
            amount = Amount(unit, None, first, strict)
        else:
            amount = Amount(unit, first, first, strict=False)
        if match["fee"]:
            amount = Amount("fee", amount.least, amount.most, amount.strict)
        # What stays is the unit: a token is a word of texts as well.
        found.append(
            Condition(_amount_name(amount), amount=amount, words=(format(first.normalize(), "f"),) if amount.least == amount.most else (), weight=3)
        )
        return f"{match['fee'] or ''} {match['unit'] or ''} "

    return _amount_pattern(tuple(units)).sub(take, text)


def _number(match: re.Match[str], which: str) -> Decimal:
    digits = match[f"digits{which}"]
    value = Decimal(digits.replace(",", "")) if digits else Decimal(_NUMBER_WORDS[match[f"word{which}"].lower()])
    scale = match[f"scale{which}"]
    return value * (_SCALES[scale.lower()] if scale else 1)


def _amount_name(amount: Amount) -> str:
    def shown(value: Decimal) -> str:
        return format(value.normalize(), "f")

    if amount.least is not None and amount.least == amount.most:
        return f"{amount.unit} = {shown(amount.least)}"
    bounds = [f"{'>' if amount.strict else '≥'} {shown(amount.least)}"] if amount.least is not None else []
    bounds += [f"{'<' if amount.strict else '≤'} {shown(amount.most)}"] if amount.most is not None else []
    return f"{amount.unit} {' and '.join(bounds)}"


_FOR = re.compile(r"\b(?:swap\w*|s[eo]ll?\w*|sold|convert\w*|exchang\w+|trad\w+)\s+(?:\w+\s+)??(\w+)\s+(?:for|into|to)\s+(\w+)\b", re.IGNORECASE)


_GAVE = re.compile(r"\b(?:gave|spent|spends?|spending|sold|sells?|selling)\s+(?:\w+\s+)??(\w+)\b", re.IGNORECASE)
_GOT = re.compile(r"\b(?:got|gets|received|receives|bought|buys?|buying)\s+(?:\w+\s+)??(\w+)\b", re.IGNORECASE)


def _directions(text: str, registry: Registry, found: list[Condition]) -> None:
    """What was swapped for what."""
    symbols = {mint.symbol.lower(): mint.symbol for mint in registry.mints.values()} | {"sol": "SOL"}
    pairs = [(match[1], match[2]) for match in _FOR.finditer(text)]
    pairs += [(match[1], "") for match in _GAVE.finditer(text)] + [("", match[1]) for match in _GOT.finditer(text)]
    for pair in pairs:
        gave, got = (symbols.get(word.lower()) for word in pair)
        if gave:
            found.append(Condition(f"gave {gave}", (Check("lost", _both(gave)),), weight=2))
        if got:
            found.append(Condition(f"received {got}", (Check("gained", _both(got)),), weight=2))


def _both(symbol: str) -> tuple[str, ...]:
    """SOL, wrapped or not, is one asset to whoever asks."""
    return ("SOL", "wSOL") if symbol in ("SOL", "wSOL") else (symbol,)


_CODE = re.compile(r"\b(0x[0-9a-f]{1,8})\b|\berror\s+(?:number|code|no)\.?\s*(\d{1,10})\b", re.IGNORECASE)
_CAMEL = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z0-9]+)+\b")

_QUOTED = re.compile(r"[\"“]([^\"“”\n]{3,})[\"”]")
_INSTRUCTION = re.compile(r"\binstruction\s+#?(\d{1,3})\b", re.IGNORECASE)


def _codes(text: str, found: list[Condition]) -> None:
    """Error codes, names of errors as programs write them, and what stands in quotation marks."""
    for match in _CODE.finditer(text):
        code = match[1].lower() if match[1] else f"0x{int(match[2]):x}"
        found.append(
            Condition(
                f"error code = {code}",
                (Check("text", (f": error {code}.", f" ({code}).")),),
                words=(code,),
                weight=2,
            )
        )
    quoted = [match[1] for match in _QUOTED.finditer(text)]
    found += [Condition(f"{part!r} is told", (Check("text", (part,)),), weight=3) for part in quoted]
    numbers = [int(match[1]) for match in _INSTRUCTION.finditer(text)]
    found += [Condition(f"instruction {number} failed", (Check("text", (f"Instruction {number} failed",)),), weight=2) for number in numbers]
    names = [match[0] for match in _CAMEL.finditer(text)]
    found += [Condition(f"{name} is told", (Check("error", (name,)), Check("text", (name,))), words=(name,), weight=2) for name in names]


# --- the vocabulary --------------------------------------------------------------------------------------------------------------------

Vocabulary = Mapping[tuple[str, ...], Condition | None]
"""Phrases in lower case, and what they mean; None for one that means nothing although its words would."""

_FAILED = (
    "failed fail fails failing failure failures failings unsuccessful reverted revert reverts reverting errored error errors erroring rejected aborted "
    "refused|went wrong|gone wrong|go wrong|going wrong|did not go through|didn t go through|not go through|not accepted|did not work|didn t work"
)
_SUCCEEDED = "succeeded succeed succeeds successful successfully success worked completed executed|went through"

ASSOCIATED = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"

_LABELS: tuple[tuple[str, Condition], ...] = (
    (_FAILED, Condition("status = Fail", (Check("status", ("Fail",)),), words=("failed",))),
    (_SUCCEEDED, Condition("status = Success", (Check("status", ("Success",)),), words=("succeeded",))),
    (
        "swap swaps swapped swapping traded trader traders bought sold buying selling buy sell buys sells",
        Condition("kind = swap", (Check("kind", ("swap",)),), words=("swap",)),
    ),
    (
        "trade trades trading order orders|market making|order book",
        Condition("kind = swap or exchange", (Check("kind", ("swap", "exchange")),), words=("swap",)),
    ),
    (
        "liquidity lp lps|pool deposit|pool deposits|liquidity provider",
        Condition("kind = liquidity", (Check("kind", ("liquidity",)),), words=("liquidity", "deposit", "withdraw")),
    ),
    ("nft nfts collectible collectibles", Condition("kind = nft", (Check("kind", ("nft",)),), words=("NFT",), weight=2)),
    (
        "transfer transfers transferred transferring payment payments paid pays sent sends send sending",
        Condition("kind = transfer or token_transfer", (Check("kind", ("transfer", "token_transfer")),), words=("transfer",), weight=0.005),
    ),
    (
        "ata atas|token account|token accounts",
        Condition("kind = token_account", (Check("kind", ("token_account",)), Check("program", (ASSOCIATED,))), words=("token", "account")),
    ),
    ("|sol transfer|sol transfers|sol payment|sol payments|transfer of sol|transfers of sol", Condition("kind = transfer", (Check("kind", ("transfer",)),), words=("SOL", "transfer"))),
    ("|token transfer|token transfers", Condition("kind = token_transfer", (Check("kind", ("token_transfer",)),), words=("token", "transfer"))),
    (
        "vote votes voted voting ballot ballots validator validators consensus",
        Condition("kind = vote", (Check("kind", ("vote",)),), words=("vote",)),
    ),
    (
        "deploy deploys deployed deploying deployment deployments upload uploads uploaded bytecode upgrade upgraded upgrades",
        Condition("kind = deploy", (Check("kind", ("deploy",)),), words=("deployment", "write")),
    ),
    (
        "oracle oracles|price feed|price feeds|price update|price updates",
        Condition("kind = oracle", (Check("kind", ("oracle",)),), words=("oracle",)),
    ),
    (
        "sandwich sandwiches sandwiched sandwiching mev frontrun frontrunning backrun backrunning victim victims|front run|back run|front running|back running",
        Condition("part of a sandwich", (Check("sandwich"),), weight=2),
    ),
    ("memo memos note notes", Condition("has a memo", (Check("text", ('Memo "',)),), words=("memo",), weight=2)),
    (
        "slippage",
        Condition(
            "error = slippage",
            (Check("error", ("lippage", "TooLittleOutputReceived", "AmountOutBelowMinimum", "TooMuchSolRequired", "TooLittleSolReceived")),),
            words=("slippage",),
            weight=2,
        ),
    ),
    (
        "insufficient|not enough|insufficient funds|insufficient balance|insufficient lamports",
        Condition("error = insufficient funds", (Check("error", ("nsufficient", "NegativeLamports", "BalanceNegative")),), words=("insufficient", "funds"), weight=2),
    ),
)  # fmt: skip

_DOINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mint mints minted minting|supply increased|supply increase|supply grew", (" minted ",)),
    ("burn burns burned burnt burning|supply destroyed|supply reduced|supply decreased", (" burned ",)),
    ("|new token|new tokens|token created|token mint|token launch|create a token|new spl token", ("Created mint ",)),
    ("close closed closes closing reclaimed reclaim", ("Closed token account",)),
    ("approve approved approves approval allowance delegate delegates", ("Approved ",)),
    ("revoke revoked revokes revoking", ("Revoked ",)),
    ("authority authorities ownership", ("Set authority",)),
    ("freeze freezes frozen freezing", ("Froze ",)),
    ("thaw thawed thaws", ("Thawed ",)),
    ("nonce nonces", ("Advanced nonce",)),
)
"""Words, and parts of the lines of an instruction that does it."""

_MEANINGLESS = "|dynamic liquidity|liquidity pool|liquidity pools|nonce error|compute budget|mint address|of mint|trade volume"

_NICKNAMES = {
    "pumpfun": "pump.fun", "pump fun": "pump.fun", "pump swap": "PumpSwap", "jup": "Jupiter", "jup aggregator": "Jupiter", "mango": "Mango",
    "token extensions": "Token-2022", "token extension": "Token-2022", "spl 2022": "Token-2022", "jupiter perps": "Jupiter Perpetuals", "jup perps": "Jupiter Perpetuals",
    "margin fi": "marginfi", "dollar cost averaging": "Jupiter DCA", "ed25519": "Ed25519", "secp256k1": "Secp256k1", "cnft": "Metaplex Bubblegum", "cnfts": "Metaplex Bubblegum", "compressed nft": "Metaplex Bubblegum", "compressed nfts": "Metaplex Bubblegum", "concentrated liquidity": "Orca Whirlpool|Raydium CLMM", "lookup table": "Address Lookup Table", "lookup tables": "Address Lookup Table",
}  # fmt: skip
"""What programs are called, and their names in the registry, or the beginnings of them."""

TOKEN_NICKNAMES = {
    "tether": "USDT",
    "dogwifhat": "WIF",
    "marinade": "mSOL",
    "wrapped sol": "wSOL",
    "jito sol": "JitoSOL",
    "jup token": "JUP",
    "orca token": "ORCA",
    "pyth token": "PYTH",
}

_CATEGORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lending": (
        "lending lend lends loan loans borrow borrows borrower borrowing borrowed liquidation liquidations liquidate liquidated|money market|money markets",
        ("lending",),
    ),
    "stake": ("stake stakes staking unstake unstaking unstaked|stake account|stake accounts|stake pool", ("stake",)),
}
"""Words for a kind that programs of that category show as well."""

_COMMON = frozenset(
    _words(
        "token swap pools pool router core lend amm dex program memo vote stake system config account associated table address lookup upgradeable loader "
        "budget compute compression noop metadata machine v1 v2 v3 v4 v6 spl book open fun pump"
    )
)
"""Words of names that alone name no program."""


def _vocabulary(registry: Registry) -> dict[tuple[str, ...], Condition | None]:
    out: dict[tuple[str, ...], Condition | None] = {}
    for phrases, condition in _LABELS:
        out |= dict.fromkeys(_split(phrases), condition)
    for phrases, parts in _DOINGS:
        name = parts[0].strip()
        out |= dict.fromkeys(
            _split(phrases), Condition(f"{name} is told", (Check("text", parts),), words=tuple(part.strip() for part in parts), weight=2)
        )
    for kind, (phrases, categories) in _CATEGORIES.items():
        accounts = tuple(account for account, program in registry.programs.items() if program.category in categories)
        out |= dict.fromkeys(_split(phrases), Condition(f"kind = {kind}", (Check("kind", (kind,)), Check("program", accounts)), words=(kind,)))
    for phrase, accounts in program_phrases(registry.programs).items():
        names = sorted(registry.programs[account].name for account in accounts)
        # One word of the family finds all of it, and is not outdone by the one that has most words of the names.
        short = names[0] if len(names) == 1 else " ".join(dict.fromkeys(name.split()[0] for name in names))
        name = f"program = {' or '.join(names) if len(names) < 3 else f'{short} ({len(names)} programs)'}"
        out[phrase] = Condition(name, (Check("program", accounts),), words=tuple(short.split()), weight=2)
    tokens = {_words(mint.symbol): mint.symbol for mint in registry.mints.values()} | {
        _words(phrase): symbol for phrase, symbol in TOKEN_NICKNAMES.items()
    }
    for phrase, symbol in tokens.items():
        # A name that is a program's as well is the token's where its letters are those of the symbol: see `_phrases`.
        out[phrase if phrase not in out else (symbol,)] = _token(symbol)
    dollars = [mint.symbol for mint in registry.mints.values() if mint.is_dollar]
    out |= dict.fromkeys(_split("stablecoin stablecoins|stable coin|stable coins"), _token(*dollars))
    out |= dict.fromkeys(_split(_MEANINGLESS))
    return out


def _token(*symbols: str) -> Condition:
    """One of these tokens is told of."""
    parts = tuple(f" {symbol}{end}" for symbol in symbols for end in " .,\n")
    return Condition(f"token = {' or '.join(symbols)}", (Check("text", parts),), words=symbols, weight=2)


def _split(phrases: str) -> list[tuple[str, ...]]:
    """`a b|c d|e f` is the words a and b, and the phrases c d and e f."""
    first, *others = phrases.split("|")
    return [*((word,) for word in first.split()), *(_words(other) for other in others)]


_VERSION = re.compile(r"v\d+|\d{4}")


def program_phrases(programs: Mapping[str, Program]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Every run of words of a name that tells something, and the programs whose names have it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for account, program in programs.items():
        words = _words(program.name)
        runs = {words[start:end] for start in range(len(words)) for end in range(start + 1, len(words) + 1)}
        if program.category in ("core", "token", "stake"):
            runs = {run for run in runs if len(run) == len(words) > 1 or (run == words[:-1] and len(run) > 1)}
        # Not `orca token` of `Orca Token Swap v1`: an everyday word at the end makes it mean something else, unless it ends the name.
        runs = {run for run in runs if run[-1] not in _COMMON or run == words or (run == words[:-1] and _VERSION.fullmatch(words[-1]))}
        for run in runs:
            if (run == words and len(run) > 1) or not all(word in _COMMON for word in run):
                found.setdefault(run, []).append(account)
    for phrase, beginnings in _NICKNAMES.items():
        accounts = [account for account, program in programs.items() if program.name.startswith(tuple(beginnings.split("|")))]
        if accounts:
            found[_words(phrase)] = accounts
    return {phrase: tuple(accounts) for phrase, accounts in found.items()}


def _phrases(words: Sequence[str], vocabulary: Vocabulary, found: list[Condition]) -> None:
    """The longest phrases of the vocabulary, from the left."""
    at = 0
    while at < len(words):
        for size in range(min(5, len(words) - at), 0, -1):
            phrase = tuple(word.lower() for word in words[at : at + size])
            if size == 1 and (words[at],) in vocabulary:
                phrase = (words[at],)
            if phrase in vocabulary:
                condition = vocabulary[phrase]
                if condition is not None:
                    found.append(condition)
                at += size
                break
        else:
            at += 1


def _corrections(words: Iterable[str], vocabulary: Vocabulary) -> dict[str, str]:
    """Words that miss a word of the vocabulary by one slip."""
    known = {word for phrase in vocabulary for word in phrase}
    targets: dict[str, list[str]] = {}
    for phrase in vocabulary:
        if len(phrase) == 1 and phrase[0].isalpha() and phrase[0].islower():
            targets.setdefault(phrase[0][0], []).append(phrase[0])
    out = {}
    for word in dict.fromkeys(words):
        low = word.lower()
        if low.isalpha() and low not in known and low not in _OTHER_WORDS:
            # First letters are right: whoever errs there has written another word.
            meant = next((target for target in targets.get(low[0], ()) if is_slip(low, target)), None)
            if meant:
                out[word] = meant
    return out


_LEAST_LETTERS = 6
"""Of a word that is recognised with a letter too few or too many; of shorter ones, other words are as near."""


def is_slip(word: str, meant: str) -> bool:
    """One letter left out or put in, or two neighbours exchanged. Another letter in its place makes another word: `filled` is not `failed`."""
    long, short = (word, meant) if len(word) > len(meant) else (meant, word)
    if len(long) - len(short) == 1 and len(meant) >= _LEAST_LETTERS:
        at = next((place for place, letter in enumerate(short) if letter != long[place]), len(short))
        # A last letter more or less is an ending, not a slip.
        return 0 < at < len(short) and long[at + 1 :] == short[at:]
    if len(long) == len(short) >= 4:
        at = next((place for place, letter in enumerate(short) if letter != long[place]), len(short))
        return 0 < at < len(short) - 1 and word == meant[:at] + meant[at + 1] + meant[at] + meant[at + 2 :]
    return False


_OTHER_WORDS = frozenset(
    _words(
        "brought burying busy competed copper filed filing freeing mined mining revered reused sabre smelling spelling spending stalking swelling tenor warp"
    )
)
"""English words that are one slip from the vocabulary: all that are among the 18,000 words of MiniLM's tokenizer."""


# --- totals and superlatives -------------------------------------------------------------------------------------------------------------

_SUPERLATIVE = re.compile(
    r"\b(most|busiest|top|largest|biggest|highest|high|large|big|huge|whales?)\b|\b(least|smallest|lowest|tiny|dust|small)\b", re.IGNORECASE
)
_TOTAL = re.compile(
    r"\b(summar(?:y|ies|ise|ize)|overview|overall|statistics|stats|totals?|in total|how many|how busy|usage|breakdown|most common|most frequent|common reasons|busiest|distribution)\b",
    re.IGNORECASE,
)
_WHO = re.compile(r"\b(who|wallets?|accounts?|address(?:es)?|traders?|payers?|users?)\b", re.IGNORECASE)
_WHAT = re.compile(r"\b(programs?|contracts?|protocols?)\b", re.IGNORECASE)


def _scope(text: str, order: Order | None) -> tuple[Condition, ...]:
    """Whether sums are asked for, and of what."""
    counted = order is not None and order.unit in _COUNTED
    if not counted and not _TOTAL.search(text):
        return ()
    if counted and _WHAT.search(text):
        return (Condition("summaries of programs", (Check("scope", ("program",)),), weight=4),)
    if counted and _WHO.search(text):
        return (Condition("summaries of accounts", (Check("scope", ("account",)),), weight=4),)
    # The summary of everything first, unless the words name a program or an account, which its own then meets.
    everything = Condition("of everything first", (Check("scope", ("range",)),), weight=0.5)
    return (Condition("summaries", (Check("scope", ("range", "program", "account")),), weight=4), everything)


_COUNTED = ("transactions", "failed", "swap", "fees")


def _order(text: str, conditions: Sequence[Condition]) -> Order | None:
    match = _SUPERLATIVE.search(text)
    if not match:
        return None
    names = {condition.name for condition in conditions}
    if re.search(r"\b(most|busiest|top)\b", text, re.IGNORECASE) and (_WHAT.search(text) or _WHO.search(text)):
        if re.search(r"\bfees?\b", text, re.IGNORECASE):
            return Order("fees")
        return Order("failed" if "status = Fail" in names else "swap" if "kind = swap" in names else "transactions")
    if re.search(r"\bfees?\b", text, re.IGNORECASE):
        return Order("fee", not match[2])
    tokens = [name.removeprefix("token = ") for name in names if name.startswith("token = ")]
    if tokens:
        return Order(tokens[0] if tokens[0] != "wSOL" else "SOL", not match[2])
    if re.search(r"\bsol\b", text, re.IGNORECASE):
        return Order("SOL", not match[2])
    return None
