"""The lake as a Dagster resource.

Belongs here: opening a `Lake` from settings. Does not belong here: storage (`blyan.lake`).
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field, SecretStr

from blyan.lake import Lake
from blyan.settings import Settings, load_settings


class SettingsResource(dg.ConfigurableResource):  # type: ignore[misc]
    """The settings of the process that opens it, below `overrides`.

    A deployment leaves `overrides` empty: every process reads its own environment, so that keys and
    addresses with tokens in them never become resource config, which the UI shows to anyone.
    """

    overrides: dict[str, Any] = Field(default_factory=dict, description="Settings above the environment, by field name, without secrets.")

    @classmethod
    def of(cls, settings: Settings | None) -> SettingsResource:
        """For these settings, or for the environment's where there are none; secrets are always the environment's."""
        if settings is None:
            return cls(overrides={})
        secrets = {name for name in type(settings).model_fields if isinstance(getattr(settings, name), SecretStr)}
        return cls(overrides=settings.model_dump(mode="json", exclude_defaults=True, exclude=secrets))

    def settings(self) -> Settings:
        """The settings that hold here."""
        return load_settings(**self.overrides)


class LakeResource(SettingsResource):
    """Where the tables are."""

    def open(self) -> Lake:
        """The lake; it connects on first use."""
        return Lake.from_settings(self.settings())
