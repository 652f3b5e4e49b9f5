"""The corpus: transactions as text, and what is made of that text.

Belongs here: pure functions from rows of the lake to documents, labels and embeddings. Does not belong here: the rows
themselves (`blyan.solana`), storage (`blyan.lake`), assets (`blyan_assets`).
"""
