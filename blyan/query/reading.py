"""A question as its parts: names, numbers, slots and times, limits, and the tags of the other words.

Belongs here: cutting a question into words, and whatever is told by the order of two or three of them. Does not belong here: which words there are
(`blyan.query.lexicon`), or what the parts mean together (`blyan.query.intents`).

Parts are taken out of the line of words one after the other; what is left must all be of use to an intent, or the question is not answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from blyan.corpus.registry import Registry
from blyan.errors import PermanentError
from blyan.query.lexicon import HARMLESS, REFUSED, vocabulary
from blyan.query.query_ast import Operator, Window
from blyan.query.understanding import TOKEN_NICKNAMES, is_slip, program_phrases
from blyan.solana import base58
from blyan.solana.normalise import NATIVE_MINT
from blyan.solana.programs import instruction_names


@dataclass(frozen=True, slots=True)
class Tip:
    """What slots are here: the first and the last that has a block, and the time of that."""

    first_slot: int
    last_slot: int
    last_time: datetime | None = None

    @classmethod
    def of(cls, first_slot: int | None, last_slot: int | None, last_time: datetime | None) -> Tip | None:
        """The row of `blyan.query.planner.TIP_SQL`; None where there is no block."""
        return None if first_slot is None or last_slot is None else cls(first_slot, last_slot, last_time)


class NotUnderstoodError(PermanentError):
    """A question that is not answered; `reason`, `words` and `instead` are those of `blyan.query.planner.Abstention`."""

    def __init__(self, why: str, reason: str, words: Iterable[str] = (), instead: Iterable[str] = ()) -> None:
        super().__init__(why, where="the question", remedy="ask in other words, or with `blyan sql`")
        self.why, self.reason, self.words, self.instead = why, reason, tuple(words), tuple(instead)

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A word, a phrase or a name: its tag, its text, what it says, and, for names, the accounts that it may mean."""

    tag: str
    text: str
    value: str = ""
    accounts: tuple[str, ...] = ()

    @property
    def number(self) -> Decimal:
        """Of a NUM."""
        return Decimal(self.value)

    @property
    def is_whole(self) -> bool:
        """Of a NUM, which may be larger than what decimals divide."""
        return self.number == self.number.to_integral_value()

    @property
    def is_plural(self) -> bool:
        """Whether more than one is asked for."""
        # As `reasons for failure` does.
        return self.text.endswith("s") or self.text.partition(" ")[0].endswith("s")


@dataclass(frozen=True, slots=True)
class Asset:
    """SOL, or a mint: with symbol and decimals where the registry has it."""

    mint: str | None
    symbol: str
    decimals: int | None


@dataclass(frozen=True, slots=True)
class Threshold:
    """An amount that something is compared with; `unit` is `lamports`, `asset`, or empty where none is said."""

    operator: Operator
    value: Decimal
    unit: Literal["lamports", "asset", "cu", ""]
    asset: Asset | None = None


@dataclass
class Reading:
    """The parts of a question.

    Attributes:
        line: the lexemes that are left, in their order.
        tip: the slots that are here.
        window: slots and times; of all that is here where none are said.
        said_window: the words of it, or empty.
        slots: slots to compare.
        limit: how many rows.
        threshold: an amount to compare with.
        is_closed: whether the answer is yes or no: it begins as `Did …` does.
    """

    line: list[Lexeme]
    tip: Tip | None
    window: Window = field(default_factory=Window)
    said_window: str = ""
    slots: tuple[int, ...] = ()
    limit: int | None = None
    threshold: Threshold | None = None
    is_closed: bool = False

    def take(self, pattern: str, accept: Literal["", "whole"] = "") -> list[Lexeme | None] | None:
        """Take the first run of lexemes out of the line that fits a pattern.

        Args:
            pattern: tags; `A|B` is one of them, `A?` may be absent and is None in what is given.
            accept: `whole` for numbers that are whole alone.
        """
        items = [(frozenset(item.removesuffix("?").split("|")), item.endswith("?")) for item in pattern.split()]
        for start in range(len(self.line)):
            found = _match(self.line, start, items)
            taken = [each for each in found or () if each is not None]
            if found is None or not taken or (accept == "whole" and any(each.tag == "NUM" and not each.is_whole for each in taken)):
                continue
            del self.line[start : start + len(taken)]
            return found
        return None

    def has(self, tag: str) -> bool:
        """Whether a lexeme with the tag is left."""
        return any(each.tag == tag for each in self.line)


def _match(line: Sequence[Lexeme], at: int, items: Sequence[tuple[frozenset[str], bool]]) -> list[Lexeme | None] | None:
    if not items:
        return []
    tags, optional = items[0]
    if at < len(line) and line[at].tag in tags:
        rest = _match(line, at + 1, items[1:])
        if rest is not None:
            return [line[at], *rest]
    if optional:
        rest = _match(line, at, items[1:])
        return None if rest is None else [None, *rest]
    return None


_AUXILIARIES = frozenset(("did", "do", "does", "is", "are", "was", "were", "has", "have", "had", "can", "could"))


def read(question: str, registry: Registry, tip: Tip | None) -> Reading:
    """The parts of a question.

    Raises:
        NotUnderstoodError: a word is not known, or is known to ask for what the tables do not have; or a part can be read in two ways.
    """
    line = _lexemes(question, registry)
    _refuse(line)
    reading = Reading([each for each in line if each.tag != "HARMLESS"], tip)
    reading.is_closed = line[0].text.lower().split()[0] in _AUXILIARIES and not any(
        map(reading.has, ("HOWMANY", "HOWMUCH", "WHICH", "LIST", "WHY", "WHEN"))
    )
    _numbers(reading)
    _window(reading)
    _threshold(reading, registry)
    _limit(reading)
    return reading


# Words

_PIECE = re.compile(
    r"(?P<base58>(?<![A-Za-z0-9])[1-9A-HJ-NP-Za-km-z]{32,88}(?![A-Za-z0-9]))"
    r"|(?P<moment>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?Z?(?![\w-]))"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<scale>k|m|mn|bn|b)?(?![\w])"
    r"|(?P<word>[A-Za-z0-9]+(?:['\u2019][A-Za-z]+)?)"
    r"|(?P<dots>\.\.+)|(?P<negative>(?<!\w)(?<!\d )-(?=\d))|(?P<sign>\S)",
    re.IGNORECASE | re.ASCII,
)  # fmt: skip
_SILENT = frozenset('?,.!:()/"`')
_CAMEL = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+")
_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "b": 10**9}
_SHORT = {"what's": "what", "who's": "who", "didn't": "did not", "don't": "do not", "doesn't": "does not", "wasn't": "was not", "weren't": "were not",
          "where's": "where", "it's": "it", "that's": "that", "isn't": "is not", "aren't": "are not", "when's": "when", "couldn't": "could not"}  # fmt: skip
_LONGEST = 5
MOST_WORDS = 80
"""Of a question."""


def _lexemes(question: str, registry: Registry) -> list[Lexeme]:
    """Every piece of a question, tagged: the longest phrases first, from the left."""
    pieces = _pieces(question)
    if len(pieces) > MOST_WORDS:
        raise NotUnderstoodError(f"The question has more than {MOST_WORDS} words.", "no_question")
    known = _known(registry)
    found: list[Lexeme] = []
    at = 0
    while at < len(pieces):
        lexeme, size = _longest(pieces, at, known)
        found.append(lexeme)
        at += size
    return found


def _pieces(question: str) -> list[Lexeme]:
    """The pieces of a question: tagged where their form tells what they are, else with the tag WORD."""
    pieces: list[Lexeme] = []
    for match in _PIECE.finditer(question):
        text = match[0]
        match match.lastgroup:
            case "base58":
                pieces.append(_base58(text))
            case "moment":
                pieces.append(Lexeme("MOMENT", text, text.rstrip("Zz").replace("T", " ").replace("t", " ")))
            case "number" | "scale":
                value = Decimal(match["number"].replace(",", "")) * _SCALES.get((match["scale"] or "").lower(), 1)
                pieces.append(Lexeme("NUM", text, f"{value:f}"))
            case "word":
                whole = text.replace("\u2019", "'")
                pieces.extend(Lexeme("WORD", word) for word in _SHORT.get(whole.lower(), re.sub(r"'s$", "", whole)).split())
            case "negative":
                pieces.append(Lexeme("WORD", "-"))
            case "dots":
                pieces.append(Lexeme("DASH", text))
            case _ if text in "-\u2013\u2014":
                pieces.append(Lexeme("HYPHEN", text))
            case _ if text not in _SILENT:
                pieces.append(Lexeme("WORD", text))
    return _hyphens(pieces)


def _hyphens(pieces: list[Lexeme]) -> list[Lexeme]:
    """A hyphen between numbers is a range; another joins or parts words, and says nothing. Two are none."""
    found: list[Lexeme] = []
    for at, piece in enumerate(pieces):
        if piece.tag != "HYPHEN":
            found.append(piece)
        elif at + 1 < len(pieces) and pieces[at + 1].tag == "HYPHEN":
            found.append(Lexeme("WORD", "--"))
        elif found and at + 1 < len(pieces) and found[-1].tag == pieces[at + 1].tag and found[-1].tag in ("NUM", "MOMENT"):
            found.append(Lexeme("DASH", piece.text))
    return found


def _base58(text: str) -> Lexeme:
    try:
        size = len(base58.decode(text))
    except ValueError:
        size = 0
    return Lexeme({64: "SIG", 32: "ACC"}.get(size, "WORD"), text, text)


_KNOWN: dict[str, dict[tuple[str, ...], Lexeme]] = {}


def _known(registry: Registry) -> dict[tuple[str, ...], Lexeme]:
    """Every phrase that means something: the words of the lexicon, the names of programs and tokens."""
    if registry.digest not in _KNOWN:
        _KNOWN[registry.digest] = _names(registry)
    return _KNOWN[registry.digest]


def _names(registry: Registry) -> dict[tuple[str, ...], Lexeme]:
    found = {phrase: Lexeme(tag, " ".join(phrase), value) for phrase, (tag, value) in vocabulary().items()}
    found |= {(word,): Lexeme("HARMLESS", word) for word in HARMLESS if (word,) not in found}
    programs = {
        phrase: accounts for phrase, accounts in program_phrases(registry.programs).items() if len(phrase) > 1 or _begins(phrase, accounts, registry)
    }
    for account, program in registry.programs.items():
        words = tuple(re.findall(r"[a-z0-9]+", program.name.lower()))
        programs.setdefault((*words, "program"), (account,))
        if len(words) > 1:
            programs[words] = (account,)
    tokens: dict[tuple[str, ...], str] = {(mint.symbol.lower(),): account for account, mint in registry.mints.items()}
    symbols = {mint.symbol: account for account, mint in registry.mints.items()}
    tokens |= {tuple(words.split()): symbols[symbol] for words, symbol in TOKEN_NICKNAMES.items() if symbol in symbols}
    for phrase, accounts in programs.items():
        if phrase not in found:
            found[phrase] = Lexeme("PROG", " ".join(phrase), accounts=accounts)
    for phrase, account in tokens.items():
        both = programs.get(phrase, ())
        found[phrase] = Lexeme("NAME" if both else "MINT", " ".join(phrase), account, (account, *both))
        found[(*phrase, "token")] = found[(*phrase, "tokens")] = Lexeme("MINT", " ".join(phrase), account, (account,))
    found[("sol",)] = found[("solana",)] = Lexeme("SOL", "SOL")
    return found


def _begins(phrase: tuple[str, ...], accounts: Sequence[str], registry: Registry) -> bool:
    """Whether a word is the first of the names it stands for, or all of one written together: others, such as `data`, are everyday words."""
    names = [registry.programs[account].name.lower() for account in accounts]
    return all(name.startswith(phrase[0]) or re.sub(r"\W", "", name) == phrase[0] for name in names)


def _longest(pieces: Sequence[Lexeme], at: int, known: dict[tuple[str, ...], Lexeme]) -> tuple[Lexeme, int]:
    """The longest phrase that begins at a place, and its length."""
    for size in range(min(_LONGEST, len(pieces) - at), 0, -1):
        phrase = tuple(piece.text.lower() for piece in pieces[at : at + size])
        numeric = all(piece.tag != "WORD" for piece in pieces[at : at + size])
        if phrase in known and not numeric:
            found = known[phrase]
            return replace(found, text=" ".join(piece.text for piece in pieces[at : at + size])), size
    piece = pieces[at]
    if piece.tag != "WORD":
        return piece, 1
    if piece.text in instruction_names() and not piece.text.islower():
        # Those of one word, such as `transfer`, are everyday words.
        return Lexeme("CALLNAME", piece.text, piece.text), 1
    if _CAMEL.fullmatch(piece.text):
        # Whether an error has that name is seen where it stands: `blyan.query.intents`.
        return Lexeme("ERRORNAME", piece.text, piece.text), 1
    meant = _corrected(piece.text.lower(), known)
    return (replace(known[(meant,)], text=meant), 1) if meant else (Lexeme("UNKNOWN", piece.text), 1)


_LEAST_LETTERS = 6


def _corrected(word: str, known: dict[tuple[str, ...], Lexeme]) -> str | None:
    """The one word of the vocabulary that a word misses by a slip, if it is long enough to be sure."""
    if len(word) < _LEAST_LETTERS or not word.isalpha():
        return None
    near = {
        each[0]
        for each in known
        if len(each) == 1 and each[0].isalpha() and len(each[0]) >= _LEAST_LETTERS and each[0][0] == word[0] and is_slip(word, each[0])
    }
    return near.pop() if len(near) == 1 else None


def _refuse(line: Sequence[Lexeme]) -> None:
    """Abstain where a word is known to ask for what the tables do not have, or is not known."""
    refused = [each for each in line if each.tag == "REFUSED"]
    if refused:
        reason = refused[0].value
        raise NotUnderstoodError(REFUSED[reason][0], reason, (each.text for each in refused))
    if line and line[0].tag == "SEND" and line[0].text.lower() == "send":
        raise NotUnderstoodError(REFUSED["writes"][0], "writes", (line[0].text,))
    unknown = [each.text for each in line if each.tag == "UNKNOWN"]
    if unknown:
        raise NotUnderstoodError(f"These words were not understood: {', '.join(unknown)}.", "not_understood", unknown)
    if not any(each.tag != "HARMLESS" for each in line):
        raise NotUnderstoodError("That asks for nothing that the tables have.", "no_question")


# Numbers, slots, times


def _numbers(reading: Reading) -> None:
    """Number words, and numbers with a scale after them, as numbers."""
    line: list[Lexeme] = []
    for each in reading.line:
        if each.tag == "NUMBER":
            line.append(Lexeme("NUM", each.text, each.value))
        elif each.tag == "SCALE" and line and line[-1].tag == "NUM":
            line[-1] = Lexeme("NUM", f"{line[-1].text} {each.text}", f"{line[-1].number * int(each.value):f}")
        elif each.tag == "SCALE":
            line.append(Lexeme("NUM", each.text, each.value))
        else:
            line.append(each)
    reading.line = line


_LARGE = 10_000
"""A bare number from here on is a slot, where a slot can be meant."""

Taken = Sequence[Lexeme | None]


def _num(lexeme: Lexeme | None) -> int:
    if lexeme is None or not lexeme.is_whole or lexeme.number >= 2**63:
        raise NotUnderstoodError("A slot is a whole number.", "not_understood", (lexeme.text,) if lexeme else ())
    return int(lexeme.number)


def _window(reading: Reading) -> None:
    """Take slots and times out of the line."""
    # `For each slot, 5 …`: the number is of what follows.
    reading.line = [
        replace(each, tag="EACHSLOT") if at and each.tag == "SLOT" and reading.line[at - 1].tag == "PER" else each
        for at, each in enumerate(reading.line)
    ]
    found: list[tuple[Window, str]] = []
    for take in (_relative, _spans, _two, _moments, _days, _single):
        while (each := take(reading)) is not None:
            found.append(each)
    reading.line = [replace(each, tag="SLOT") if each.tag == "EACHSLOT" else each for each in reading.line]
    if len(found) > 1 or (found and reading.slots):
        raise NotUnderstoodError("More than one range of slots or times is named.", "ambiguous", (said for _, said in found))
    window, said = found[0] if found else (Window(), "")
    tip = reading.tip
    if tip is not None and not reading.slots:
        window = replace(
            window,
            first=tip.first_slot if window.first is None else window.first,
            last=tip.last_slot if window.last is None else window.last,
        )
    reading.window, reading.said_window = window, said


def _tip(reading: Reading) -> Tip:
    if reading.tip is None:
        raise NotUnderstoodError("What is newest is not known here: name slots.", "not_understood")
    return reading.tip


def _count(lexeme: Lexeme | None) -> int:
    count = _num(lexeme)
    if count < 1:
        raise NotUnderstoodError("That many slots or seconds are none.", "not_understood", (lexeme.text,) if lexeme else ())
    return count


def _relative(reading: Reading) -> tuple[Window, str] | None:
    """The last or first slots, minutes, days."""
    if taken := reading.take("IN|OF|OVER|FROM|FOR? LAST NUM SLOT", "whole"):
        tip, count = _tip(reading), _count(taken[2])
        return Window(tip.last_slot - count + 1, tip.last_slot), f"the last {count} slots"
    if taken := reading.take("IN|OF|OVER|FROM|FOR? FIRST NUM SLOT", "whole"):
        tip, count = _tip(reading), _count(taken[2])
        return Window(tip.first_slot, tip.first_slot + count - 1), f"the first {count} slots"
    if taken := reading.take("IN|OF|OVER|FROM|FOR? LAST NUM? TIME"):
        tip, unit = _tip(reading), taken[3]
        if tip.last_time is None or unit is None:
            raise NotUnderstoodError("The newest block has no time: name slots.", "not_understood")
        count = _count(taken[2]) if taken[2] is not None else 1
        if count * int(unit.value) > _LONGEST_SPAN:
            raise NotUnderstoodError("That is longer than the chain.", "not_understood", (unit.text,))
        return Window(after=tip.last_time - timedelta(seconds=count * int(unit.value))), f"the last {count * int(unit.value)} seconds"
    if taken := reading.take("IN|OF|FROM|FOR? TODAY|YESTERDAY"):
        tip, word = _tip(reading), taken[1]
        if tip.last_time is None or word is None:
            raise NotUnderstoodError("The newest block has no time: name slots.", "not_understood")
        day = tip.last_time.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=word.tag == "YESTERDAY")
        return Window(since=day, until=day + timedelta(days=1)), f"{day:%Y-%m-%d}"
    return None


_LONGEST_SPAN = 50 * 365 * 86_400


def _spans(reading: Reading) -> tuple[Window, str] | None:
    """Slots from one to another, or on one side of one."""
    taken = (
        reading.take("IN|OF|FROM|FOR? BETWEEN SLOT NUM AND|TO|DASH SLOT? NUM", "whole")
        or reading.take("IN|OF|FROM|FOR? SLOT BETWEEN NUM AND|TO|DASH SLOT? NUM", "whole")
        or reading.take("IN|OF|FROM|FOR? SLOT FROM|BETWEEN? NUM TO|DASH SLOT? NUM", "whole")
    )
    if taken:
        first, last = sorted(_num(each) for each in taken if each is not None and each.tag == "NUM")
        return Window(first, last), f"slots {first} to {last}"
    if taken := reading.take("IN? SINCE|AFTER|BEFORE|UPTO|TO SLOT NUM ", "whole"):
        word, slot = taken[1], _num(taken[3])
        tag = word.tag if word else ""
        if tag == "TO" and (word is None or word.text.lower() not in ("until", "till", "through")):
            raise NotUnderstoodError(f"It is not clear what is meant by: to slot {slot}.", "not_understood", ("to",))
        windows = {"SINCE": Window(first=slot), "AFTER": Window(first=slot + 1), "BEFORE": Window(last=slot - 1)}
        return windows.get(tag, Window(last=slot)), f"{tag.lower()} slot {slot}"
    return None


def _two(reading: Reading) -> tuple[Window, str] | None:
    """Two slots to compare: they are no window."""
    if taken := reading.take("IN|OF? SLOT NUM AND|OR|COMPARE WITH? IN? SLOT? NUM", "whole"):
        if reading.slots:
            raise NotUnderstoodError("More than two slots are to be compared.", "ambiguous")
        reading.slots = (_num(taken[2]), _num(taken[-1]))
        reading.line += [each for each in taken if each is not None and each.tag == "COMPARE"]
    return None


def _moments(reading: Reading) -> tuple[Window, str] | None:
    """Dates and times as ISO 8601 has them, UTC."""
    if taken := reading.take("IN|FROM? BETWEEN? MOMENT AND|TO|DASH MOMENT"):
        since, until = _moment(taken[2])[0], _moment(taken[4])[1]
        return Window(since=since, until=until), f"{since:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S}"
    if taken := reading.take("SINCE|AFTER|BEFORE|FROM MOMENT"):
        begin, end = _moment(taken[1])
        tag = taken[0].tag if taken[0] else ""
        window = {"AFTER": Window(since=end), "BEFORE": Window(until=begin)}.get(tag, Window(since=begin))
        return window, f"{tag.lower()} {begin:%Y-%m-%d %H:%M:%S}"
    if taken := reading.take("IN|OF|FOR? MOMENT"):
        begin, end = _moment(taken[1])
        return Window(since=begin, until=end), f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}"
    return None


def _moment(lexeme: Lexeme | None) -> tuple[datetime, datetime]:
    """When a day, a minute or a second begins, and when it is over."""
    text = lexeme.value if lexeme is not None else ""
    try:
        begin = datetime.fromisoformat(text).replace(tzinfo=UTC)
        return begin, begin + {10: timedelta(days=1), 16: timedelta(minutes=1)}.get(len(text), timedelta(seconds=1))
    except (ValueError, OverflowError) as error:
        raise NotUnderstoodError(f"{text} is no time.", "not_understood", (text,)) from error


def _days(reading: Reading) -> tuple[Window, str] | None:
    """A day or a month by its name."""
    for pattern, day, month, year in (("IN? MONTH NUM NUM", 2, 1, 3), ("IN? NUM OF? MONTH NUM", 1, 3, 4), ("IN? MONTH NUM", 0, 1, 2)):
        taken = reading.take(pattern, "whole")
        if taken is None:
            continue
        named = taken[month]
        at = (_num(taken[year]), int(named.value) if named is not None else 0, _num(taken[day]) if day else 1)
        try:
            begin = datetime(*at, tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise NotUnderstoodError("That is no date.", "not_understood", (each.text for each in taken if each)) from error
        end = begin + timedelta(days=1) if day else (begin + timedelta(days=32)).replace(day=1)
        return Window(since=begin, until=end), f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    return None


def _single(reading: Reading) -> tuple[Window, str] | None:
    """One slot, by its number."""
    taken = reading.take("IN|OF|FROM|FOR? SLOT NUM", "whole")
    if taken is None:
        for each in reading.line:
            if each.tag == "NUM" and each.number >= _LARGE and each.is_whole:
                taken = reading.take("IN|OF|FOR NUM", "whole")
                if taken is None and reading.has("HASH"):
                    taken = reading.take("NUM", "whole")
                break
    if taken is None:
        return None
    slot = _num(taken[-1])
    if taken[0] is not None and taken[0].tag == "FROM":
        raise NotUnderstoodError(
            f"From slot {slot} on, or in that slot alone?", "ambiguous", ("from",), (f"… since slot {slot}", f"… in slot {slot}")
        )
    return Window(slot, slot), f"slot {slot}"


# Amounts and limits

_COMPARED: dict[str, Operator] = {"OVER": ">", "UNDER": "<", "ATLEAST": ">=", "ATMOST": "<=", "UPTO": "<=", "EXACTLY": "="}


def _threshold(reading: Reading, registry: Registry) -> None:
    """Take an amount to compare with out of the line."""
    if (none := reading.take("PAY|HAVE|WITH? NOT PRIORITY")) and none[1] is not None and none[1].text.lower() in ("no", "without"):
        reading.threshold = Threshold("=", Decimal(0), "lamports")
        reading.line += [each for each in none if each is not None and each.tag == "PRIORITY"]
        return
    taken = reading.take("OF|WITH? OVER|UNDER|ATLEAST|ATMOST|UPTO|EXACTLY NUM OF? LAMPORT|SOL|MINT|CU?")
    if taken:
        word, amount, unit = taken[1], taken[2], taken[4]
    else:
        taken = reading.take("OF|WITH? NUM LAMPORT|SOL|MINT ORMORE") or reading.take("OF|WITH? NUM ORMORE LAMPORT|SOL|MINT")
        if not taken:
            return
        word, amount, unit = Lexeme("ATLEAST", "at least"), taken[1], taken[2] if taken[2] and taken[2].tag != "ORMORE" else taken[3]
    if word is None or amount is None:
        return
    said: Literal["lamports", "asset", "cu", ""] = ""
    asset = None
    if unit is not None and unit.tag in ("LAMPORT", "CU"):
        said = "lamports" if unit.tag == "LAMPORT" else "cu"
    elif unit is not None:
        said, asset = "asset", asset_of(unit, registry)
    reading.threshold = Threshold(_COMPARED[word.tag], amount.number, said, asset)


def asset_of(lexeme: Lexeme, registry: Registry) -> Asset:
    """The asset that a lexeme names: SOL, a mint of the registry, or an account that must be one."""
    if lexeme.tag == "SOL":
        return Asset(None, "SOL", 9)
    known = registry.mints.get(lexeme.value)
    return Asset(lexeme.value, known.symbol if known else lexeme.value, known.decimals if known else None)


def is_native(asset: Asset) -> bool:
    """SOL, wrapped or not: to whoever swaps, it is one."""
    return asset.mint in (None, NATIVE_MINT)


_RANKED = "PAYER|SIGNER|LEADER|PROGRAM|MINTS|ERRORS|TRANSFER|TXN|KINDS|SENDER|RECEIVER|SLOT"
_RANKS = "TOP|MOST|BIG|SMALL|LEAST|LAST|FIRST|HEAVY"


def _limit(reading: Reading) -> None:
    """Take the number of rows out of the line; the word beside it stays."""
    patterns = [f"{_RANKS} NUM", f"NUM {_RANKS}", "WHICH NUM", "LIST NUM"]
    if any(reading.has(rank) for rank in _RANKS.split("|")):
        patterns.append(f"NUM {_RANKED}")
    for pattern in patterns:
        at = next((at for at in range(len(reading.line)) if _fits(reading.line, at, pattern)), None)
        if at is None:
            continue
        place = at if pattern.startswith("NUM") else at + 1
        number = reading.line[place]
        if not number.is_whole or not 0 < number.number <= MOST_ROWS:
            raise NotUnderstoodError(f"Lists have 1 to {MOST_ROWS} rows.", "not_understood", (number.text,))
        del reading.line[place]
        reading.limit = int(number.number)
        return


MOST_ROWS = 1_000


def _fits(line: Sequence[Lexeme], at: int, pattern: str) -> bool:
    return _match(line, at, [(frozenset(item.split("|")), False) for item in pattern.split()]) is not None
