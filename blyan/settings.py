"""The one typed settings object. Every default runs on one machine with no cloud.

Belongs here: names, types, defaults and bounds of settings. Does not belong here: what they
configure. Read from the environment (prefix `BLYAN_`), then from the TOML file that
`BLYAN_CONFIG` names (`blyan.toml` in the working directory by default), then from the defaults.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from blyan.errors import SettingError
from blyan.solana.slots import Grid

PREFIX = "BLYAN_"


class Settings(BaseSettings):
    """Where the lake is, which chain fills it, and how hard to work."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    lake: str = Field(".blyan/lake", description="Root of the lake: a folder, `s3://bucket/prefix` or `gs://bucket/prefix`.")
    delta_options: dict[str, str] = Field(
        default_factory=dict, description="Storage options of delta-rs for the lake (JSON): keys, endpoint, region."
    )
    file_options: dict[str, str] = Field(
        default_factory=dict, description="Options of the pyarrow file system for the lake (JSON): the same store, for Parquet files and blobs."
    )

    source: Literal["embedded", "archive", "rpc", "bigquery"] = Field("embedded", description="Where blocks come from.")
    first_slot: int = Field(0, ge=0, description="First slot of the grid of ranges.")
    horizon_slot: int = Field(1_000, gt=0, description="First slot after the grid.")
    slots_per_range: int = Field(100, gt=0, description="Slots in a range, the unit of partitioning. Production: 54000, an eighth of an epoch.")
    genesis_hash: str | None = Field(
        None,
        description="Genesis hash that the source, or the node that is followed, must have. Unset: the first chain that fills the lake is pinned in it.",
    )

    archive: str | None = Field(None, description="Folder or bucket of recorded getBlock responses, for BLYAN_SOURCE=archive.")
    archive_max_bytes: int = Field(1 << 30, gt=0, description="Most bytes one archived file may decompress to; a larger one is quarantined.")

    rpc_url: str = Field("https://api.mainnet-beta.solana.com", description="Solana JSON-RPC endpoint, for BLYAN_SOURCE=rpc.")
    rpc_concurrency: int = Field(8, ge=1, le=256, description="getBlock calls in flight at once.")
    rpc_timeout_s: float = Field(30.0, gt=0, description="Seconds before one call is given up and retried.")
    rpc_retries: int = Field(8, ge=0, description="Times one call is tried again after 429, 5xx or a broken connection.")
    rpc_encoding: Literal["json", "jsonParsed", "base64", "base58"] = Field(
        "json", description="Encoding asked of getBlock. json is decoded here, 30 % fewer bytes than jsonParsed."
    )

    stream: Literal["slots", "blocks", "yellowstone"] = Field(
        "slots",
        description="What tells `blyan follow` that it is time to ask. slots: slotSubscribe. blocks: also blockSubscribe, whose blocks are "
        "then not fetched; few nodes serve it, and what it leaves out is fetched. yellowstone: the Geyser stream at BLYAN_YELLOWSTONE_URL.",
    )
    websocket_url: str | None = Field(
        None,
        description="WebSocket endpoint that announces slots to `blyan follow`. Unset: that of BLYAN_RPC_URL, on the next port where it names one.",
    )
    yellowstone_url: str | None = Field(None, description="`https://host:port` of a Yellowstone gRPC endpoint, for BLYAN_STREAM=yellowstone.")
    yellowstone_token: SecretStr | None = Field(None, description="Token sent to it as `x-token`.")
    metrics_port: int = Field(0, ge=0, le=65_535, description="Port on which `blyan follow` serves Prometheus metrics; 0 means none.")

    bigquery_project: str | None = Field(None, description="Google Cloud project that is billed, for BLYAN_SOURCE=bigquery.")
    bigquery_dataset: str = Field("bigquery-public-data.crypto_solana_mainnet_us", description="Dataset to read, `project.dataset`.")
    bigquery_maximum_bytes_billed: int = Field(
        200_000_000_000, gt=0, description="Most bytes the queries of one range may bill; a dry run that exceeds it stops the run before it costs."
    )
    bigquery_export_uri: str | None = Field(
        None, description="`gs://bucket/prefix`: large backfills go through EXPORT DATA to Parquet there. Unset: Storage Read API."
    )
    bigquery_endpoint: str | None = Field(None, description="Another BigQuery REST endpoint, such as a stand-in on loopback.")

    embedded_seed: int = Field(1, ge=0, description="Seed of the embedded chain; the same seed gives the same blocks.")
    embedded_transactions_per_slot: int = Field(24, ge=0, le=5_000, description="Transactions in a block of the embedded chain.")

    corpus_vote_share: float = Field(
        0.01, ge=0, le=1, description="Share of the votes that get a document, drawn by their signatures; the others are counted."
    )
    corpus_registry: str | None = Field(
        None, description="TOML file of further names of programs and mints, in the form of `blyan/corpus/registry.toml`, put above those there."
    )

    corpus_samples_per_family: int = Field(
        20, ge=1, le=10_000, description="Instruction-tuning samples of one family of questions that a range gets, at most."
    )
    corpus_template_cap: int = Field(
        64, ge=1, description="Most documents of one template (equal but for masked values) of a range that become tokens, spread evenly over it."
    )
    tokenizer_vocabulary: int = Field(8_192, ge=1, le=65_536, description="Most tokens that a tokenizer which is trained may have.")
    split_key: SecretStr | None = Field(
        None, description="64 hex digits that decide which family of near-duplicates is in which split. Unset: those in BLYAN_SPLIT_KEY_FILE."
    )
    split_key_file: str = Field(
        ".blyan/split.key",
        description="File of the key where BLYAN_SPLIT_KEY gives none; made with a random one if there is none and the lake is a folder. Keep it: it cannot be told from the lake.",
    )
    split_validation_share: float = Field(0.01, ge=0, lt=1, description="Share of the families of documents that is kept for validation.")
    split_hidden_share: float = Field(0.01, ge=0, lt=1, description="Share of the families of documents that is kept hidden.")

    embedder: Literal["minilm-int8", "minilm-fp32", "sentence-transformers", "endpoint"] = Field(
        "minilm-int8",
        description="What makes vectors of texts. minilm-int8 and minilm-fp32: all-MiniLM-L6-v2 on the CPU, which comes with the installation. "
        "sentence-transformers: the model BLYAN_EMBEDDING_MODEL. endpoint: the API of OpenAI's form at BLYAN_EMBEDDING_URL.",
    )
    embedding_model: str | None = Field(None, description="Name of the model, for sentence-transformers and endpoint.")
    embedding_url: str | None = Field(None, description="Base of the API, as `https://host/v1`, for BLYAN_EMBEDDER=endpoint.")
    embedding_key: SecretStr | None = Field(None, description="Key sent to it as `Authorization: Bearer`.")
    embedding_dimension: int = Field(1_536, gt=0, le=16_384, description="Components that each of its vectors must have.")
    embedding_batch: int = Field(64, gt=0, le=2_048, description="Texts in one request to it.")
    embedding_concurrency: int = Field(4, gt=0, le=64, description="Requests to it in flight at once.")

    chat_url: str | None = Field(
        None,
        description="Base of an API of OpenAI's form whose language model answers questions, as `http://localhost:11434/v1`. Unset: the "
        "planner answers, which knows a closed set of questions.",
    )
    chat_model: str | None = Field(None, description="Name of that model.")
    chat_key: SecretStr | None = Field(None, description="Key sent to it as `Authorization: Bearer`.")
    chat_timeout_s: float = Field(60.0, gt=0, description="Seconds for one reply of it, to its last word.")
    chat_max_tokens: int = Field(1_024, gt=0, description="Tokens of one reply, at most.")
    chat_data_bytes: int = Field(
        24 << 10, ge=1 << 10, description="Bytes of results that it is shown for one question: about 3 bytes are a token of its context."
    )

    workers: int = Field(
        0, ge=0, description="Processes that normalise a large range, and threads that embed texts and make tokens; 0 means one per core."
    )
    query_folder: str | None = Field(
        None,
        description="Folder for the processes that run callers' SQL and for results of long queries. It must be on the file system of a lake "
        "that is a folder: files are handed to them as hard links. Unset: `query` in such a lake, else `.blyan/query`.",
    )
    query_processes: int = Field(0, ge=0, le=256, description="Statements of callers that run at once, each in a process; 0 means one per core.")
    query_memory_mb: int = Field(1_024, ge=64, description="MiB of memory that one statement may have at most.")
    query_spill_mb: int = Field(4_096, ge=1, description="MiB that one statement may write to disk while it runs.")
    query_spool_mb: int = Field(10_240, ge=1, description="MiB that results of long queries may take together; the oldest go first.")
    query_spool_hours: float = Field(24.0, gt=0, description="Hours for which the result of a long query is kept.")

    vacuum_retention_hours: int = Field(168, ge=0, description="Age at which files no table version needs may be deleted; longer than any reader.")

    run_retention_days: int = Field(
        30, ge=7, description="Days after which a run is deleted from Dagster's records, if all it made was made again since."
    )

    invalidate_urls: list[HttpUrl] = Field(
        default_factory=list, description="Addresses (JSON list) of caches whose `/invalidate` is told promptly of what changed in the lake."
    )

    serve_anonymous: bool = Field(False, description="Whether `blyan serve` lets everybody read, without a key and with a reader's limits.")
    serve_cors_origins: list[str] = Field(
        default_factory=list, description='Origins (JSON list) whose pages in a browser may call `blyan serve`; `["*"]` means all.'
    )
    serve_hosts: list[str] = Field(
        default_factory=lambda: ["127.0.0.1:*", "localhost:*", "[::1]:*"],
        description="Values (JSON list) of the header `Host` that `/mcp` answers to, `name:*` for any port: another is a page that rebound a name.",
    )
    dagster_url: HttpUrl | None = Field(
        None, description="Where a reader's browser finds Dagster's UI, to which the page of `blyan serve` links. Unset: no links."
    )
    serve_tls_certificate: str | None = Field(None, description="PEM file of the certificate chain, for HTTPS. Unset: HTTP.")
    serve_tls_key: str | None = Field(None, description="PEM file of its private key.")
    serve_body_bytes: int = Field(1 << 20, gt=0, description="Bytes that the body of a request may have.")
    serve_patience_s: float = Field(30.0, gt=0, description="Seconds for a client to send a request whole, and to read what waits for it.")
    serve_drain_s: float = Field(30.0, gt=0, description="Seconds for requests that were taken to be answered, once it is told to end.")
    serve_threads: int = Field(2, ge=1, le=256, description="Threads of DuckDB in each process of `blyan serve`.")
    serve_memory_mib: int = Field(512, ge=64, description="MiB that DuckDB may use in each of them.")
    audit_log: str = Field(".blyan/audit.jsonl", description="File of JSON lines that says who asked what of `blyan serve`. Empty: none.")
    audit_bytes: int = Field(64 << 20, gt=0, description="Bytes of it before another begins; eight older ones are kept.")
    token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Secret that signs short-lived tokens, and answers in Redis, the same for all replicas and for Dagster. Unset: a random one, "
        "known to this `blyan serve` alone, so that replicas take neither each other's tokens nor each other's answers.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="`redis://host:port/db` where replicas count rates together and share answers. Unset: each process counts and remembers for itself.",
    )
    answers_memory_mb: int = Field(
        64, ge=0, description="MiB of answers that each process of `blyan serve` remembers; 0 means that it remembers none."
    )
    answers_bytes: int = Field(
        1 << 30, ge=0, description="Bytes of answers that the lake keeps for good, below `serving/answers/`; the oldest go first. 0: none."
    )
    hot_answers: int = Field(
        32, ge=0, le=1_000, description="Statements that are run again ahead of who asks them, the most asked first, where new data touches them."
    )

    @property
    def grid(self) -> Grid:
        """The grid of slot ranges."""
        return Grid(self.first_slot, self.horizon_slot, self.slots_per_range)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file over defaults."""
        path = Path(os.environ.get(f"{PREFIX}CONFIG", "blyan.toml"))
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path))


def load_settings(**overrides: object) -> Settings:
    """Read the settings, with `overrides` above everything.

    Raises:
        SettingError: a value is wrong, a name is unknown, or the file that BLYAN_CONFIG names is not there.
    """
    named = os.environ.get(f"{PREFIX}CONFIG")
    if named is not None and not Path(named).is_file():
        raise SettingError(f"no settings file at {named}", where=f"{PREFIX}CONFIG", remedy="correct the path or unset it")
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {f"{PREFIX}CONFIG"}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingError(f"unknown setting {', '.join(unknown)}", where="environment", remedy="`blyan doctor` lists the settings")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        where = f"{PREFIX}CONFIG, {named or 'blyan.toml'}"
        raise SettingError(f"the settings file is not TOML: {error}", where=where, remedy="correct the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper() if first["loc"] else "settings"
        raise SettingError(
            f"{first['msg']} (got {first['input']!r})", where=name, remedy="`blyan doctor` lists the settings with their meaning"
        ) from error
