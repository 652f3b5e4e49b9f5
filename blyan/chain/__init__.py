"""Three append-only chains of signed blocks: A (meta), B (parameters of models), D (datasets). docs/chain.md specifies the format.

Belongs here: blocks, chains, their logs and who follows them. Does not belong here: what a payload means to anybody else than the chain.
"""
