"""BigQuery's client as Dagster makes it, for the source that reads the public dataset.

Belongs here: the bridge from `dagster_gcp.BigQueryResource` to `BigQuerySource`. Does not belong
here: queries (`blyan.solana.sources.bigquery`). `dagster_gcp` takes 3.9 s to import, so it is
imported only where a range is read from BigQuery.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from blyan.settings import Settings
from blyan.solana.sources.bigquery import BigQuerySource


@contextmanager
def open_bigquery(settings: Settings) -> Iterator[BigQuerySource]:
    """The BigQuery source, on the client that `BigQueryResource` makes with the credentials of the environment.

    Another endpoint, such as a stand-in on loopback, has no credentials: there the source makes its own client.
    """
    with ExitStack() as stack:
        client = None
        if settings.bigquery_endpoint is None and settings.bigquery_project is not None:
            from dagster_gcp import BigQueryResource

            client = stack.enter_context(BigQueryResource(project=settings.bigquery_project).get_client())
        source = BigQuerySource.from_settings(settings, client=client)
        stack.callback(source.close)
        yield source
