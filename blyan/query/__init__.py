"""Reading the lake with SQL.

Belongs here: the query engine over the lake's files. Does not belong here: making tables, or
storing them (`blyan.lake`).
"""
