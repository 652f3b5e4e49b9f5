"""The HTTP service: the lake over REST, SQL and live streams, for callers with a key.

Belongs here: HTTP, and who may do what. Does not belong here: how questions are answered (`blyan.query`), where rows are (`blyan.lake`).
"""
