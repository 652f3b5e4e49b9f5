"""Blyan's domain: Solana blocks to exact tables, with no orchestrator in sight.

Belongs here: everything that would be the same under another orchestrator. Does not belong
here: anything that imports dagster (`blyan_assets`, `blyan_sensors` and `resources` do).
"""

__version__ = "0.1.0"
