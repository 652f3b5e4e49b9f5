"""Dagster resources: what an asset opens.

Belongs here: thin `ConfigurableResource` shells over classes of `blyan`. Does not belong here: any
logic. Nothing connects at import, or before a step opens the resource.
"""
