"""The words of questions, and what each can be part of.

Belongs here: phrases and their tags, words that say nothing, words that no answer has. Does not belong here: order and meaning
(`blyan.query.reading`, `blyan.query.intents`), or the names of programs and tokens (`blyan.corpus.registry`).
"""

from __future__ import annotations

from functools import cache

Tagged = tuple[str, str]
"""A tag, and what is said by it: a kind, a number of seconds, or nothing."""

_TAGS = {
    "HARMLESS": "|at all",
    "HOWMANY": "count counts|how many|number of|the number of|count of|how often|how many times|amount of transactions",
    "HOWMUCH": "|how much|what amount of|amount of|what amount",
    "WHICH": "which what who whose whats",
    "WHEN": "when timestamp|what time|at what time|time of|which time|production time",
    "WHY": "why|what went wrong|how come",
    "LIST": "list show display enumerate",
    "ANY": "any",
    "THERE": "|is there|are there|was there|were there|have there been",
    "TXN": "transactions transaction txs tx txns txn trx trxs",
    "FAIL": "failed fail fails failing failure failures unsuccessful reverted|did not succeed|not successful|did not go through|not succeed",
    "SUCCESS": "succeeded succeed succeeds successful successfully success successes|did not fail|not failed|went through",
    "RATE": "rate ratio share percentage percent proportion fraction %|in percent",
    "FEE": "fee fees|transaction fee|transaction fees|tx fee|tx fees",
    "PRIORITY": "|priority fee|priority fees|prio fee|prio fees|prioritization fee|prioritization fees|prioritisation fees",
    "CU": "cu cus compute|compute units|compute unit",
    "VOTE": "votes vote|vote transactions|vote transaction|voting transactions|vote txs|vote tx",
    "NONVOTE": "nonvote|non vote|non votes|non voting|without votes|excluding votes|votes excluded|no votes|not counting votes|except votes|ignoring votes|"
    "without vote transactions|excluding vote transactions|that are not votes|that are no votes|not votes|votes left out|leaving out votes|leaving votes out|"
    "without voting|excluding vote|without counting votes|minus votes|excl votes|apart from votes|other than votes|w o votes|without vote|"
    "not including votes|not vote transactions|not vote",
    "WITHVOTES": "|including votes|votes included|with votes|incl votes|votes counted|including vote transactions|counting votes",
    "PAYER": "payer payers wallet wallets user users feepayer feepayers|fee payer|fee payers",
    "SIGNER": "signer signers",
    "ACCOUNT": "account accounts address addresses",
    "SENDER": "sender senders",
    "RECEIVER": "receiver receivers recipient recipients",
    "DISTINCT": "distinct unique different",
    "TOTAL": "total sum overall altogether combined totals|in total|sum of|sum up|in sum|in all|added up|total amount of",
    "MEAN": "average averages mean avg averaged|on average",
    "MEDIAN": "median typical",
    "P90": "p90|90th percentile",
    "P95": "p95|95th percentile",
    "P99": "p99|99th percentile",
    "BIG": "highest max maximum biggest largest greatest priciest|most expensive",
    "HEAVY": "heaviest|most compute heavy|compute heaviest",
    "SMALL": "lowest min minimum smallest cheapest",
    "TOP": "top ranked ranking|only the top|just the top|ranked by",
    "MOST": "most busiest|most active|most used|most popular|most often|most common|most frequent|most frequently|commonest|most called|most transferred|most times|the most times|"
    "highest number of|largest number of|greatest number of|biggest number of|highest count of",
    "LEAST": "least fewest|least used|least active|least often|lowest number of|smallest number of|fewest times|least frequently",
    "SPREAD": "breakdown distribution|split of",
    "PER": "per each every|grouped by|group by|broken down by|breakdown by|for each|for every|split by|of each|each of",
    "SLOT": "slot slots block blocks",
    "PROGRAM": "program programs contract contracts protocol protocols|smart contract|smart contracts",
    "MINTS": "mint mints token tokens coin coins",
    "INSTRUCTION": "instruction instructions",
    "INNER": "inner nested",
    "OUTER": "outer|top level",
    "ITYPES": "|instruction type|instruction types|instruction name|instruction names|instruction kind|instruction kinds|type of instruction|types of instruction|"
    "types of instructions|kind of instruction|kinds of instruction|kinds of instructions",
    "BUCKETS": "bucket buckets|value bucket|value buckets|size bucket|size buckets|value class|value classes",
    "BOUGHT": "bought purchased",
    "SOLD": "sold",
    "SIGNATURE": "signature signatures",
    "SIZE": "size sizes amount amounts|value of",
    "KINDS": "kind kinds type types category categories",
    "ERRORS": "error errors|error class|error classes|error type|error types|reasons for failure|reason for failure|failure reason|failure reasons|"
    "reasons for failures|reasons of failure|causes of failure|cause of failure|reasons|reason",
    "STATUS": "status outcome result outcomes",
    "VERSIONS": "version versions|transaction version|transaction versions",
    "LEADER": "leader leaders validator validators|block producer|block producers",
    "PRODUCE": "produced produce produces producing made built",
    "SKIP": "skipped skip missed",
    "LAND": "land landed included",
    "HASH": "hash blockhash|block hash",
    "HEIGHT": "height|block height",
    "PARENT": "parent|parent slot|parent block",
    "LAST": "last past recent previous latest newest|most recent",
    "FIRST": "first earliest oldest",
    "TRANSFER": "transfer transfers transferred transferring moved movements payments payment",
    "SEND": "sent send sends sending gave",
    "RECEIVE": "received receive receives receiving got",
    "VOLUME": "volume volumes",
    "BURN": "burned burnt burn burns|burn operations|burn operation|burn events",
    "MINTED": "minted|mint operations|mint operation|mint events",
    "BALANCE": "balance",
    "HAVE": "have has had hold holds own owns",
    "NOW": "now currently current|right now|at the moment|at present|as of now",
    "REWARD": "reward rewards earned earn earns earnings",
    "SANDWICH": "sandwich sandwiches sandwiched|part of a sandwich|parts of a sandwich|parts of sandwiches|sandwich attack|sandwich attacks|part of sandwiches|in the shape of a sandwich|shape of a sandwich",
    "MEMO": "memo memos",
    "WRITE": "written wrote posted attached",
    "COMPARE": "compare comparison vs versus|compared to|compared with",
    "MORE": "more|more often",
    "OVER": "over above exceeding >|more than|greater than|larger than|bigger than|higher than",
    "UNDER": "under below <|less than|smaller than|lower than|fewer than",
    "ATLEAST": "≥|at least|no less than|minimum of|> =|not less than",
    "ATMOST": "≤|at most|no more than|maximum of|< =|not more than",
    "EXACTLY": "exactly|equal to|exactly equal to",
    "ORMORE": "|or more|or larger",
    "LAMPORT": "lamport lamports",
    "PAY": "paid pay pays paying cost costs charged spent spend spending|paid for|pay for|pays for",
    "USE": "consumed consume consumes used use uses using called call calls invoked invoke invokes calling ran run|interacted with|interact with|interacting with|made use of|went to",
    "DETAILS": "details describe explain|details of|what happened in|what does|tell me about|details for|details about|information about|info about|what is in",
    "INVOLVING": "involving involve involves involved touching touch mentioning mention|that involve|that touch|that mention|in which|took part in|takes part in",
    "PROGRAMS_OF": "|programs called by|programs were called by|programs are called by|programs were used by|programs did|programs are in|programs in|programs were in|programs of",
    "FROM": "from",
    "TO": "to into through till until",
    "BY": "by",
    "OF": "of",
    "IN": "in at on during within inside",
    "FOR": "for",
    "WITH": "with|because of|due to|caused by",
    "AND": "and",
    "OR": "or",
    "NOT": "not no without except excluding neither nor never",
    "THAN": "than",
    "BETWEEN": "between",
    "BOTH": "both",
    "PRONOUN": "it its they them their he his she her",
    "SINCE": "since|starting at|starting from|starting with",
    "BEFORE": "before|prior to|earlier than",
    "AFTER": "after|later than",
    "UPTO": "|up to",
    "DASH": "- ..",
    "TODAY": "today",
    "YESTERDAY": "yesterday",
}

_VALUED: dict[str, dict[str, str]] = {
    "KIND": {
        "swap": "swap swaps swapped swapping",
        "nft": "nft nfts",
        "liquidity": "liquidity",
        "oracle": "oracle",
        "lending": "lending",
        "stake": "|stake transactions|staking transactions",
        "deploy": "deployments|deploy transactions",
    },
    "TIME": {
        "1": "second seconds sec secs",
        "60": "minute minutes mins",
        "3600": "hour hours hrs",
        "86400": "day days",
        "604800": "week weeks",
    },
    "MONTH": {
        "1": "january jan", "2": "february feb", "3": "march mar", "4": "april apr", "5": "may", "6": "june jun", "7": "july jul", "8": "august aug",
        "9": "september sep sept", "10": "october oct", "11": "november nov", "12": "december dec",
    },
    "VERSION": {"legacy": "legacy", "0": "v0 versioned|version 0|version zero"},
    "NUMBER": {
        "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine", "10": "ten",
        "11": "eleven", "12": "twelve", "15": "fifteen", "20": "twenty", "30": "thirty", "40": "forty", "50": "fifty", "60": "sixty", "90": "ninety",
    },
    "SCALE": {"100": "hundred", "1000": "thousand k", "1000000": "million mn m", "1000000000": "billion bn"},
}  # fmt: skip

HARMLESS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "do",
        "does",
        "did",
        "there",
        "here",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "then",
        "please",
        "pls",
        "plz",
        "me",
        "us",
        "i",
        "we",
        "you",
        "your",
        "can",
        "could",
        "would",
        "tell",
        "give",
        "get",
        "find",
        "know",
        "like",
        "want",
        "need",
        "happened",
        "happen",
        "occurred",
        "occur",
        "took",
        "place",
        "so",
        "far",
        "ever",
        "all",
        "exactly",
        "together",
        "just",
        "really",
        "their",
        "them",
        "they",
        "where",
        "still",
        "single",
        "many's",
        "hi",
        "hey",
        "s",
        "seen",
        "see",
        "as",
        "per-se",
        "anybody",
        "anyone",
        "let",
        "lets",
        "say",
        "out",
        "ok",
    ]
)
"""Words that change nothing in what is asked."""

REFUSED: dict[str, tuple[str, str]] = {
    "future": ("The tables have what happened, and nothing of the future.",
               "will tomorrow predict prediction forecast next future upcoming expected|going to|likely to"),
    "opinion": ("That is a matter of opinion, and the tables have none.",
                "should good bad better best worst invest investment recommend opinion think nice worth scam safe buy sell beautiful"),
    "price": ("The tables have amounts of SOL and of tokens, and no prices.",
              "price prices usd dollar dollars eur euro euros $ € marketcap expensive_in apy|market cap|exchange rate"),
    "other_chain": ("The tables are of Solana alone.",
                    "ethereum eth bitcoin btc polygon matic arbitrum avalanche tron cardano binance bsc bnb aptos sui dogecoin litecoin gas optimism"),
    "identity": ("The tables have accounts, and nothing of who is behind them.",
                 "person people human ceo founder founders identity email owner|real life|real name|name of|ip address|who owns"),
    "writes": ("The tables are only read.",
               "delete drop insert update alter truncate remove erase destroy modify|transfer me"),
    "not_recorded": ("The tables do not have that.",
                     "stake staked delegation delegated tps ip location country latency client apr commission"),
}  # fmt: skip
"""By reason: what is said, and the words that it is known by."""


def phrases(text: str) -> list[tuple[str, ...]]:
    """`a b|c d|e f` is the words a and b, and the phrases c d and e f."""
    first, *others = text.split("|")
    return [*((word,) for word in first.split()), *(tuple(other.split()) for other in others)]


@cache
def vocabulary() -> dict[tuple[str, ...], Tagged]:
    """Every phrase, in lower case, and its tag."""
    found: dict[tuple[str, ...], Tagged] = {}
    for reason, (_, words) in REFUSED.items():
        found |= dict.fromkeys(phrases(words), ("REFUSED", reason))
    for tag, words in _TAGS.items():
        found |= dict.fromkeys(phrases(words), (tag, ""))
    for tag, values in _VALUED.items():
        for value, words in values.items():
            found |= dict.fromkeys(phrases(words), (tag, value))
    return found
