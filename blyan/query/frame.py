"""Who and what a question names, sorted by the part that each plays, and the tags of its other words.

Belongs here: which program, token, account or transaction is meant, and words that stand for others. Does not belong here: what is asked of
them (`blyan.query.intents`), or the line of words (`blyan.query.reading`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from blyan.corpus.registry import Registry
from blyan.query.reading import Asset, Lexeme, NotUnderstoodError, Reading, asset_of


@dataclass
class Frame:
    """The parts of a question with names sorted out: `accounts` by the part that they play."""

    reading: Reading
    registry: Registry
    signature: str | None = None
    programs: tuple[str, ...] = ()
    accounts: dict[str, str] = field(default_factory=dict)
    asset: Asset | None = None
    pair: tuple[Asset | None, Asset | None] | None = None
    error: str | None = None
    kind: str | None = None
    tags: dict[str, Lexeme] = field(default_factory=dict)

    def fits(self, need: str, may: str = "") -> bool:
        """Whether all that is needed is there, and nothing besides what may be."""
        return set(need.split()) <= self.tags.keys() <= set(need.split()) | set(may.split())

    def has(self, *tags: str) -> bool:
        """Whether one of the tags is there."""
        return any(tag in self.tags for tag in tags)

    def text(self, tag: str) -> str:
        """The word of a tag, in lower case; empty where it is not there."""
        return self.tags[tag].text.lower() if tag in self.tags else ""

    def plays(self, *parts: str) -> bool:
        """Whether the accounts of the question play no other part than these."""
        return set(self.accounts) <= set(parts)

    def named(self, account: str) -> str:
        """An account as sentences have it."""
        name = self.registry.names.get(account)
        return f"{name} ({account})" if name else account


MOVES = ("TRANSFER", "VOLUME", "BURN", "MINTED", "SEND", "RECEIVE", "BALANCE", "HAVE", "SENDER", "RECEIVER")
_DROPPED = frozenset(("IN", "OF", "FOR", "WITH"))


def frame_of(reading: Reading, registry: Registry) -> Frame:
    """The names of a question, sorted.

    Raises:
        NotUnderstoodError: a name can be read in two ways, or two are named where one can be.
    """
    frame = Frame(reading, registry)
    _take_both(reading)
    _take_names(frame)
    _take_assets(frame)
    _take_accounts(frame)
    _take_shown(reading)
    _take_orders(frame)
    for each in reading.line:
        if each.tag in _DROPPED:
            continue
        if each.tag in frame.tags and each.value != frame.tags[each.tag].value and each.tag not in ("NUM", "CALLED"):
            raise NotUnderstoodError(f"Two of a sort are named: {frame.tags[each.tag].text}, {each.text}.", "ambiguous", (each.text,))
        frame.tags.setdefault(each.tag, each)
    _leave_out(frame)
    _rename(frame)
    frame.kind = frame.tags["KIND"].value if "KIND" in frame.tags else None
    frame.error = frame.tags["ERRORNAME"].value if "ERRORNAME" in frame.tags else None
    if frame.has("FAIL") and frame.has("SUCCESS"):
        raise NotUnderstoodError("Both failures and successes are named.", "ambiguous", (frame.text("FAIL"), frame.text("SUCCESS")))
    return frame


def _leave_out(frame: Frame) -> None:
    """Leave out words that say nothing beside others."""
    tags = frame.tags
    if "THERE" in tags:
        # `How many … are there` asks for a number, `Are there …` whether there is one.
        there = tags.pop("THERE")
        if not frame.has("HOWMANY", "HOWMUCH", "WHICH", "LIST", "ANY", "PER", "RATE"):
            tags["ANY"] = there
    if "ERRORNAME" in tags:
        _check_error(frame)
    if frame.text("HAVE") in ("have", "has", "had") and not (frame.accounts and frame.has("HOWMUCH", "ASSET", "SOL", "BALANCE", "REWARD")):
        del tags["HAVE"]
    if "PRONOUN" in tags:
        pronoun = tags.pop("PRONOUN")
        is_one_slot = frame.reading.said_window.startswith("slot ") and pronoun.text.lower() in ("it", "its")
        if not (frame.accounts or frame.programs or frame.signature or is_one_slot):
            raise NotUnderstoodError(f"What does {pronoun.text} stand for?", "ambiguous", (pronoun.text,))
    if frame.reading.said_window.startswith("the last ") and not frame.has("BALANCE"):
        tags.pop("NOW", None)
    if "BOTH" in tags and "AND" in tags and len(frame.programs) == 2:
        del tags["BOTH"]
    if frame.text("PRODUCE") == "made" and "PAYER" in tags:
        del tags["PRODUCE"]


def _rename(frame: Frame) -> None:
    """Put the tag that is meant in the place of one that stands for it."""
    tags = frame.tags
    if frame.has("WHY") and frame.has("FAIL") and frame.signature is None and not frame.accounts:
        # `Why do transactions fail`: which errors, and how often.
        tags["TOP"] = tags.pop("WHY")
        tags["ERRORS"] = Lexeme("ERRORS", "reasons")
    if frame.text("WHICH") == "who" and frame.has("MOST", "TOP", "BIG") and frame.has("SEND") != frame.has("RECEIVE") and not frame.accounts:
        noun = "SENDER" if frame.has("SEND") else "RECEIVER"
        tags[noun] = replace(tags.pop("SEND" if frame.has("SEND") else "RECEIVE"), tag=noun, text=noun.lower())
    if frame.has("BURN") and frame.has("CU") and not frame.has("ASSET", "MINTS"):
        tags["USE"] = replace(tags.pop("BURN"), tag="USE")
    if "PROGRAMS_OF" in tags and frame.signature is None:
        tags["PROGRAM"] = replace(tags.pop("PROGRAMS_OF"), text="programs")
    if frame.text("MOST") == "most transferred":
        tags.setdefault("TRANSFER", tags["MOST"])
    for verb, noun in (("SEND", "SENDER"), ("RECEIVE", "RECEIVER")):
        if verb in tags and frame.has("ACCOUNT", "PAYER") and frame.has("MOST", "TOP") and not frame.accounts:
            tags.pop(verb)
            tags[noun] = tags.pop("ACCOUNT" if "ACCOUNT" in tags else "PAYER")


def _check_error(frame: Frame) -> None:
    """A word is the name of an error where the registry has it, or where it is called one."""
    name = frame.tags["ERRORNAME"]
    at = frame.reading.line.index(name)
    called = at > 0 and frame.reading.line[at - 1].tag in ("WITH", "ERRORS")
    known = any(name.value in program.errors.values() for program in frame.registry.programs.values())
    if not (known or called):
        raise NotUnderstoodError(f"These words were not understood: {name.text}.", "not_understood", (name.text,))
    frame.tags.pop("ERRORS", None)


def _take_names(frame: Frame) -> None:
    """Signatures and programs."""
    reading = frame.reading
    signatures = [each for each in reading.line if each.tag == "SIG"]
    if len(signatures) > 1:
        raise NotUnderstoodError("More than one transaction is named.", "ambiguous", (each.text for each in signatures))
    if signatures:
        reading.take("OF|IN|FOR|WITH? TXN? SIG")
        frame.signature = signatures[0].text
    # `The account X` says no more than `X`.
    line = reading.line
    reading.line = [each for at, each in enumerate(line) if each.tag != "ACCOUNT" or at + 1 == len(line) or line[at + 1].tag != "ACC"]
    reading.line = [_sorted(frame, at) for at in range(len(reading.line))]
    found: list[str] = []
    while taken := reading.take("PROGRAM? PROG PROGRAM?"):
        lexeme = taken[1]
        if lexeme is None or len(lexeme.accounts) != 1:
            raise _choices(lexeme or Lexeme("PROG", "program"), frame)
        found.append(lexeme.accounts[0])
        reading.line.append(Lexeme("CALLED", lexeme.text))
    frame.programs = tuple(dict.fromkeys(found))


def _sorted(frame: Frame, at: int) -> Lexeme:
    """A lexeme of the line; an account or a name as the program or the token that it is known for, or is called."""
    line, registry = frame.reading.line, frame.registry
    each = line[at]
    beside = {other.tag for other in line[max(at - 1, 0) : at + 2]} - {each.tag}
    if each.tag == "ACC":
        if each.text in registry.programs or "PROGRAM" in beside:
            return replace(each, tag="PROG", accounts=(each.text,))
        if each.text in registry.mints or "MINTS" in beside:
            return replace(each, tag="MINT", accounts=(each.text,))
    if each.tag == "NAME":
        if "PROGRAM" in beside:
            return replace(each, tag="PROG", accounts=each.accounts[1:])
        if "MINTS" in beside or any(other.tag in MOVES for other in line):
            return replace(each, tag="MINT", accounts=each.accounts[:1])
        raise _choices(each, frame)
    return each


def _choices(lexeme: Lexeme, frame: Frame) -> NotUnderstoodError:
    names = sorted(f"{frame.registry.names[account]}{' (token)' if account in frame.registry.mints else ''}" for account in lexeme.accounts)
    return NotUnderstoodError(f"{lexeme.text} can be {', '.join(names)}.", "ambiguous", (lexeme.text,), names)


def _take_assets(frame: Frame) -> None:
    """What moved, and what was swapped for what."""
    reading, registry = frame.reading, frame.registry
    if any(each.tag == "KIND" and each.value == "swap" for each in reading.line):
        taken = reading.take("OF|FROM? SOL|MINT|ACC FOR|TO SOL|MINT|ACC")
        if taken and taken[1] and taken[3]:
            frame.pair = (asset_of(taken[1], registry), asset_of(taken[3], registry))
        reading.line += [Lexeme("PAIR", "pair")] if taken else []
        return
    if not any(each.tag in MOVES for each in reading.line):
        return
    is_supply = any(each.tag in ("BURN", "MINTED", "VOLUME") for each in reading.line)
    taken = reading.take("OF|IN|MINTS? SOL|MINT MINTS?") or (reading.take("OF|IN|FOR|MINTS? ACC MINTS?") if is_supply else None)
    if taken and taken[1]:
        frame.asset = asset_of(taken[1], registry)
        reading.line.append(Lexeme("ASSET", taken[1].text))
    elif (threshold := reading.threshold) is not None and threshold.asset is not None:
        frame.asset = threshold.asset


_PARTS = (
    ("sender", "SEND BY ACC"),
    ("payer", "PAY BY ACC"),
    ("receiver", "RECEIVE BY ACC"),
    ("leader", "BY|OF? LEADER ACC"),
    ("payer", "BY|OF? PAYER ACC"),
    ("leader", "PRODUCE BY ACC"),
    ("part", "INVOLVING ACC"),
    ("from", "FROM ACC"),
    ("to", "TO ACC"),
    ("by", "BY ACC"),
    ("of", "OF|FOR|IN ACC"),
    ("bare", "ACC"),
)
"""Parts that an account can play, by the words before it. Those of verbs keep the verb."""


def _take_accounts(frame: Frame) -> None:
    reading = frame.reading
    for part, pattern in _PARTS:
        while taken := reading.take(pattern):
            account = taken[-1]
            if account is None or part in frame.accounts:
                raise NotUnderstoodError("More than one account is named, and not what each does.", "ambiguous", (account.text,) if account else ())
            frame.accounts[part] = account.text
            reading.line += [each for each in taken if each is not None and each.tag in ("SEND", "PAY", "RECEIVE", "LEADER", "PRODUCE")]


def _take_both(reading: Reading) -> None:
    """Two sides of one thing that are put beside each other are what is grouped by."""
    line = reading.line
    versions = {each.value for each in line if each.tag == "VERSION"}
    outcomes = {each.tag for each in line if each.tag in ("FAIL", "SUCCESS")}
    sides = "VERSIONS" if len(versions) == 2 else "STATUS" if len(outcomes) == 2 else ""
    names = [each for each in line if each.tag in ("PROG", "NAME", "ACC", "SIG")]
    if not sides or not reading.has("COMPARE") or reading.slots or len(names) > 1 or sum(each.tag == "COMPARE" for each in line) > 1:
        return
    gone = ("COMPARE", "AND", "VERSION") if sides == "VERSIONS" else ("COMPARE", "AND", "FAIL", "SUCCESS")
    reading.line = [*(each for each in line if each.tag not in gone), Lexeme(sides, sides.lower()), Lexeme("PER", "each")]


_BEFORE = frozenset(("IN", "OF", "FROM", "TO", "BY", "FOR"))
_RANKED = frozenset(
    ("SLOT", "PAYER", "SIGNER", "PROGRAM", "LEADER", "MINTS", "SENDER", "RECEIVER", "ACCOUNT", "TXN", "KINDS", "ERRORS", "ITYPES", "BUCKETS")
)


def _take_orders(frame: Frame) -> None:
    """Where one transaction is asked for by its fee, and not the fee: the order of the words tells it."""
    reading = frame.reading
    for at, each in enumerate(reading.line[1:]):
        if each.text.lower() == "no votes" and reading.line[at].tag in ("WITH", "HAVE"):
            raise NotUnderstoodError("It is not clear what has no votes.", "ambiguous", ("no votes",))
    for at in range(len(reading.line) - 2):
        before, rank, what = reading.line[at : at + 3]
        if before.tag in _BEFORE and rank.tag in ("MOST", "TOP", "LEAST", "BIG", "SMALL") and what.tag in _RANKED:
            words = (rank.text, what.text)
            raise NotUnderstoodError(f"That needs two answers: first which is meant by {' '.join(words)}.", "not_understood", words)
    if taken := reading.take("PAY BY KIND|TXN|VOTE|FAIL|SUCCESS|NONVOTE"):
        reading.line += [each for each in taken if each is not None and each.tag != "BY"]
    _take_extremes(reading)


def _take_shown(reading: Reading) -> None:
    """Words that ask for what is shown anyway, or for what the whole of a question is about."""
    if any(each.tag in ("BIG", "SMALL", "MOST", "HEAVY") for each in reading.line):
        # The amount is shown beside whatever has the most of it.
        reading.take("AND HOWMUCH PRONOUN?")
    if reading.has("LEADER"):
        reading.take("IN PRONOUN SLOT")
    if reading.has("TRANSFER"):
        # Both are shown with every transfer.
        reading.take("FROM WHICH AND? TO WHICH")
    if reading.has("SEND") or reading.has("RECEIVE"):
        reading.take("BY|IN TRANSFER")
    if taken := reading.take("INVOLVING SLOT"):
        if taken[0] is not None and taken[0].text.lower() != "in which":
            reading.line += [each for each in taken if each is not None]
        else:
            reading.line += [Lexeme("WHICH", "which"), *(each for each in taken[1:] if each is not None)]
    if any(each.tag == "MEAN" for each in reading.line) and (taken := reading.take("PER TXN")):
        # A mean is of transactions anyway.
        reading.line.append(Lexeme("OFEACH", "per transaction"))


def _take_extremes(reading: Reading) -> None:
    """Transactions that are asked for by the highest or lowest of what they have."""
    patterns = [
        *(f"TXN|KIND WITH|HAVE|PAY BIG|MOST|SMALL|LEAST {what}" for what in ("FEE", "PRIORITY")),
        "TXN|KIND WITH|HAVE|USE BIG|MOST|SMALL|LEAST CU",
        "BIG|SMALL FEE|PRIORITY|CU TXN|KIND",
        "TXN|KIND BY FEE|PRIORITY|CU",
        "TXN|KIND HEAVY IN? CU",
        "HEAVY TXN|KIND",
    ]
    for pattern in patterns:
        if taken := reading.take(pattern):
            words = {each.tag: each for each in taken if each is not None}
            what = next((tag for tag in ("PRIORITY", "FEE") if tag in words), "CU")
            noun = words.get("TXN") or words["KIND"]
            reading.line.append(Lexeme("EXTREME", noun.text, f"{what} asc" if "SMALL" in words or "LEAST" in words else what))
            reading.line += [each for each in taken if each is not None and each.tag == "KIND"]
            return
    for at, each in enumerate(reading.line[:-1]):
        after = reading.line[at + 1]
        if each.text.lower() in ("most expensive", "cheapest", "priciest") and after.tag in ("TXN", "KIND"):
            # It says what the transactions are ordered by, and which end is asked for.
            reading.line[at] = Lexeme("EXTREME", after.text, "FEE asc" if each.tag == "SMALL" else "FEE")
            return


def without(frame: Frame, *tags: str) -> Frame:
    """A frame without some of its words."""
    return replace(frame, tags={tag: each for tag, each in frame.tags.items() if tag not in tags})
