"""Answers that are asked for often, made again when new data touches them.

Belongs here: the asset `serving/hot_answers`. Does not belong here: what is asked often (`blyan.query.hot_answers`), when it is due
(`blyan_sensors.invalidation`).
"""

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import dagster as dg
import msgspec

from blyan.lake import Lake
from blyan.settings import Settings
from blyan_assets.failures import failures
from blyan_assets.tables import OWNERS
from resources.lake import LakeResource

if TYPE_CHECKING:
    from blyan.query.hot_answers import Hot, Refreshed

HOT_ANSWERS = dg.AssetKey(["serving", "hot_answers"])

MEMORY = 64 << 20
"""Bytes of answers that a round holds; it has them only to put them where readers find them."""


def answers_assets() -> dg.AssetsDefinition:
    """The asset of what is asked often."""

    @dg.asset(
        key=HOT_ANSWERS,
        description=(
            "Answers to the statements that are asked most, as of now, kept below `serving/answers/` and in Redis where there is one.\n\n"
            "It is made again when a table that one of them reads has changed. Nothing depends on it but how long the next reader waits: "
            "an answer that is not there is computed."
        ),
        code_version="1",
        owners=OWNERS,
        kinds={"python", "duckdb"},
    )
    def hot_answers(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        started, settings = time.monotonic(), lake.settings()
        with failures(context):
            # What runs statements reads a parser of SQL, and nobody who only looks at the graph should wait for that.
            from blyan.query.hot_answers import Refreshed, hottest
            from blyan.query.kept_answers import CONTENTS

            store = lake.open()
            hot = hottest(store, settings.hot_answers)
            done = asyncio.run(_refreshed(settings, store, hot)) if hot else Refreshed(0, 0, 0, 0, {})
        digest = hashlib.sha256(msgspec.json.encode(sorted(done.digests.items()))).hexdigest()
        metadata = {
            "statements": len(hot),
            "run": done.run,
            "stood already": done.stood,
            "of the tail": done.of_tail,
            "failed": done.failed,
            "seconds": round(time.monotonic() - started, 3),
            "data": dg.MetadataValue.path(store.store.uri(CONTENTS)),
        }
        return dg.MaterializeResult(data_version=dg.DataVersion(digest), metadata=metadata)

    return hot_answers


async def _refreshed(settings: Settings, lake: Lake, hot: "list[Hot]") -> "Refreshed":
    from blyan.query.cache import Answers, Room
    from blyan.query.hot_answers import refresh
    from blyan.query.kept_answers import KeptAnswers
    from blyan.query.shared_answers import SharedAnswers
    from blyan.query.sql import SqlEngine

    rooms: list[Room] = [SharedAnswers(settings.redis_url.get_secret_value(), settings.token_secret)] if settings.redis_url else []
    rooms += [KeptAnswers(lake, settings.answers_bytes)] if settings.answers_bytes else []
    answers = Answers(MEMORY, rooms)
    try:
        async with SqlEngine.from_settings(settings, answers) as engine:
            return await refresh(engine, hot)
    finally:
        await answers.close()
