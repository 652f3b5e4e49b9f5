"""Solana itself: slots, sources of blocks, decoding and normalising them.

Belongs here: what knows Solana's formats. Does not belong here: storage (`blyan.lake`).
"""
