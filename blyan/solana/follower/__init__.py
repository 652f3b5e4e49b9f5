"""Following the chain's tip into the landing.

Belongs here: `links` (what parent links prove), `node` (what is asked of a node), `stream` (the clock that says a slot began),
`yellowstone` (another
clock), `pushed` (blocks that come by themselves), `follow` (the loop of them). Does not belong here: files (`blyan.solana.landing`), history (`blyan.solana.sources`).
"""
