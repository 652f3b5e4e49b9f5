"""Routes: one module for each kind of thing that is asked.

Belongs here: parameters, and what an answer looks like. Does not belong here: answering.
"""
