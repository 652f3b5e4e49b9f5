"""The code location: what `workspace.yaml` names.

Belongs here: one call. It is apart from `blyan_assets.build` so that whoever needs other definitions, such as the
command line or a test, does not pay for these.
"""

from blyan_assets.build import build_defs

__all__ = ["build_defs", "defs"]

defs = build_defs()
