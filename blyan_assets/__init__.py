"""The asset graph.

Belongs here: thin Dagster definitions. An asset is about fifteen lines: read, call `blyan`, write,
report. Does not belong here: what the data is or how it is made (`blyan`), what a step opens
(`resources`), what is discovered from outside the graph (`blyan_sensors`).
"""
