"""What depends on what: the blocks of all chains as a directed graph.

Belongs here: ancestors, descendants, order. Does not belong here: whether the links hold (`blyan.chain.verify`).

A block names those it depends on by their hashes, so they were there first and no cycle can be made: it would need a hash that depends on
itself. Diamonds and old parents are ordinary. Nothing here recurses, so depth does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from blyan.chain.block import CHAINS, Ref, read_header
from blyan.chain.store import Chains
from blyan.errors import MissingObjectError

Place = tuple[str, int]
"""Chain and height."""


@dataclass(frozen=True)
class Graph:
    """The links of all blocks.

    Attributes:
        hashes: of every block.
        depends_on: places of what a block depends on; the block before it in its chain is not among them unless it says so.
        dependents: the other way round.
    """

    hashes: Mapping[Place, str]
    depends_on: Mapping[Place, tuple[Place, ...]]
    dependents: Mapping[Place, tuple[Place, ...]]

    @classmethod
    def read(cls, chains: Chains) -> Graph:
        """From every header in the store."""
        hashes: dict[Place, str] = {}
        links: dict[Place, tuple[Place, ...]] = {}
        back: dict[Place, list[Place]] = {}
        for chain in CHAINS:
            for row in chains.rows(chain):
                here = (chain, row.height)
                hashes[here] = row.hash
                links[here] = tuple((ref.chain, ref.height) for ref in read_header(row.header).depends_on)
                for place in links[here]:
                    back.setdefault(place, []).append(here)
        return cls(hashes, links, {place: tuple(items) for place, items in back.items()})

    def ancestors(self, *places: Place, previous: bool = False) -> list[Ref]:
        """What blocks depend on, directly or not, by chain and height; they themselves are left out.

        Args:
            places: the blocks.
            previous: whether a block also depends on the one before it in its chain.

        Raises:
            MissingObjectError: there is no such block.
        """
        return self._reached(places, self.depends_on, -1 if previous else 0)

    def descendants(self, *places: Place, previous: bool = False) -> list[Ref]:
        """What depends on blocks, directly or not: of a dataset, all that was made from it. As `ancestors`."""
        return self._reached(places, self.dependents, 1 if previous else 0)

    def _reached(self, places: Iterable[Place], links: Mapping[Place, tuple[Place, ...]], step: int) -> list[Ref]:
        pending = list(places)
        for place in pending:
            if place not in self.hashes:
                raise MissingObjectError(
                    f"there is no block {place[1]} in chain {place[0]}", where="graph of blocks", remedy="`blyan chain log` lists them"
                )
        start, seen = set(pending), set(pending)
        while pending:
            place = pending.pop()
            neighbours = links.get(place, ())
            if step and (next_to := (place[0], place[1] + step)) in self.hashes:
                neighbours = (*neighbours, next_to)
            for neighbour in neighbours:
                if neighbour not in seen:
                    seen.add(neighbour)
                    pending.append(neighbour)
        return [Ref(chain, height, self.hashes[chain, height]) for chain, height in sorted(seen - start)]
