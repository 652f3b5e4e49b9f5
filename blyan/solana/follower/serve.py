"""The follower as a process: built from the settings, ended by a signal, watched by people and by Prometheus.

Belongs here: what surrounds the loop. Does not belong here: the loop (`blyan.solana.follower.follow`), arguments (`blyan.cli`).
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blyan.errors import SettingError
from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.node import Node, RpcNode
from blyan.solana.follower.pushed import PushedBlocks, WebSocketBlocks
from blyan.solana.follower.stream import SlotStream, WebSocketSlots, websocket_url
from blyan.solana.follower.yellowstone import YellowstoneSlots
from blyan.solana.jsonrpc import RpcClient
from blyan.solana.landing import Landing
from blyan.solana.segments import cores

SAY_EVERY_S = 5.0

CONCURRENCY = 16
"""Calls in flight: a step fetches up to 32 blocks, and a node on loopback or nearby answers in milliseconds."""

LAG_QUANTILES = (0.5, 0.95)

BEHIND_SLOTS = 8
"""Slots from the newest landed block to the tip that are not worth a word: what is confirmed is two or three behind what is processed."""

RETRIES = 2
"""Times a call is tried again within a step; the step itself is made again for ever."""


def follow(settings: Settings, say: Callable[[str], None]) -> None:
    """Follow the chain until SIGINT or SIGTERM.

    Raises:
        SettingError: BLYAN_RPC_URL is not a URL of HTTP, or the metrics port is taken.
        PermanentError: the node contradicts what it called final, or serves another chain.
    """
    asyncio.run(_follow(settings, say))


async def _follow(settings: Settings, say: Callable[[str], None]) -> None:
    client = RpcClient(settings.rpc_url, concurrency=CONCURRENCY, timeout_s=settings.rpc_timeout_s, retries=RETRIES)
    node, stream = _ends(settings, RpcNode(client, encoding=settings.rpc_encoding), say)
    pushed = node if isinstance(node, PushedBlocks) else None
    talker, lake = _Talker(say), Lake.from_settings(settings)
    landing = Landing(lake, settings.grid, processes=settings.workers or cores())
    follower = Follower(node, stream, lake, settings.grid, genesis_hash=settings.genesis_hash, landing=landing, told=talker.told)
    say(f"following {client.where} into {settings.lake}")
    if settings.metrics_port:
        _serve_metrics(settings.metrics_port, follower, pushed)
        say(f"metrics at http://localhost:{settings.metrics_port}/metrics")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await follower.run(stop)
    finally:
        await client.close()
    say(f"stopped; the checkpoint is slot {follower.landing.head.checkpoint:,}")


def _ends(settings: Settings, node: Node, say: Callable[[str], None]) -> tuple[Node, SlotStream]:
    """Where content comes from, and what says that there is some.

    Raises:
        SettingError: BLYAN_YELLOWSTONE_URL is needed and not set, or of another form.
    """
    url = settings.websocket_url or websocket_url(settings.rpc_url)
    if settings.stream == "yellowstone":
        if settings.yellowstone_url is None:
            raise SettingError("not set", where="BLYAN_YELLOWSTONE_URL", remedy="set it to https://host:port, or BLYAN_STREAM to slots")
        token = settings.yellowstone_token.get_secret_value() if settings.yellowstone_token else None
        return node, YellowstoneSlots(settings.yellowstone_url, token=token, say=say)
    slots = WebSocketSlots(url, say=say)
    if settings.stream == "blocks":
        pushed = PushedBlocks(node, slots, WebSocketBlocks(url, encoding=settings.rpc_encoding), say=say)
        return pushed, pushed
    return node, slots


class _Talker:
    """A line every few seconds, and one whenever something goes wrong in another way than before."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._at, self._blocks, self._transactions = time.monotonic(), 0, 0
        self._failure = ""

    def told(self, follower: Follower) -> None:
        measures, head = follower.measures, follower.landing.head
        if measures.last_failure != self._failure:
            self._failure = measures.last_failure
            self._say(f"trying again: {self._failure}")
        passed = time.monotonic() - self._at
        if passed < SAY_EVERY_S:
            return
        blocks, transactions = measures.blocks - self._blocks, follower.landing.transactions - self._transactions
        self._at, self._blocks, self._transactions = time.monotonic(), measures.blocks, follower.landing.transactions
        half, most = (quantile_of(measures.lags_s, quantile) * 1e3 for quantile in LAG_QUANTILES)
        lag = f", readable {half:,.0f} ms (p95 {most:,.0f}) after the announcement" if measures.lags_s else ""
        if follower.lag_slots > BEHIND_SLOTS or measures.gap_slots:
            lag += f"; behind: the newest block is {follower.lag_slots:,} slots before the tip, {measures.gap_slots:,} slots before it are missing"
        self._say(
            f"slot {head.processed:,}, confirmed {head.confirmed:,}, final {head.finalized:,}, checkpoint {head.checkpoint:,}: "
            f"{blocks / passed:.1f} blocks/s, {transactions / passed:,.0f} transactions/s{lag}"
        )
        for slot, why in sorted(measures.unfetched.items())[:1]:
            self._say(f"waiting for slot {slot:,}: {why}")


def quantile_of(values: Iterable[float], quantile: float) -> float:
    """The least value that is not exceeded by this share of them; not a number where there are none."""
    ordered = sorted(values)
    return ordered[math.ceil(quantile * len(ordered)) - 1] if ordered else math.nan


def _serve_metrics(port: int, follower: Follower, pushed: PushedBlocks | None) -> None:
    registry = CollectorRegistry()
    registry.register(Metrics(follower, pushed))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise SettingError(f"port {port} cannot be served: {error}", where="BLYAN_METRICS_PORT", remedy="choose a free port, or 0") from error


class Metrics(Collector):
    """What a follower measured, read when Prometheus asks; of pushed blocks too, where there are any."""

    def __init__(self, follower: Follower, pushed: PushedBlocks | None = None) -> None:
        self._follower, self._pushed = follower, pushed

    def collect(self) -> Iterator[Metric]:
        """Every metric, with its unit in its name."""
        follower, measures, head = self._follower, self._follower.measures, self._follower.landing.head
        gauges = {
            "blyan_slot_processed": ("The newest slot that was announced.", head.processed),
            "blyan_slot_confirmed": ("The newest confirmed slot with a block.", head.confirmed),
            "blyan_slot_finalized": ("The newest final slot, as the node says.", head.finalized),
            "blyan_slot_checkpoint": ("Every slot before it is landed or proven skipped, for good.", head.checkpoint),
            "blyan_behind_slots": ("Slots from the checkpoint to the tip.", measures.behind_slots),
            "blyan_lag_slots": ("Slots from the newest landed block to the tip.", follower.lag_slots),
            "blyan_gap_slots": ("Slots before the newest landed block that are neither landed nor passed over by a link.", measures.gap_slots),
            "blyan_unfetched_slots": ("Blocks that the node listed and did not give at the last step.", len(measures.unfetched)),
        }
        counters = {
            "blyan_blocks": ("Blocks landed.", measures.blocks),
            "blyan_slots_skipped": ("Slots proven skipped.", measures.skipped),
            "blyan_transactions": ("Transactions landed.", follower.landing.transactions),
            "blyan_payload_bytes": ("Bytes of blocks as the node gave them.", measures.payload_bytes),
            "blyan_quarantined": ("Records put into quarantine.", follower.landing.quarantined),
            "blyan_gaps_filled": ("Times that gaps had opened and none was left.", measures.gaps_filled),
            "blyan_forks": ("Blocks taken away because their fork died.", measures.forks),
            "blyan_reconnects": ("Times the stream of slots was connected again.", follower.reconnects),
            "blyan_retries": ("Steps that failed for a passing reason.", measures.retries),
            "blyan_ranges_sealed": ("Ranges whose every slot became final.", measures.sealed),
            "blyan_ranges_handed_over": ("Sealed ranges that the lake has taken over.", measures.handed_over),
        }
        if self._pushed is not None:
            gauges["blyan_pushed_waiting_blocks"] = ("Pushed blocks that wait to be asked for.", self._pushed.held)
            gauges["blyan_pushed_waiting_bytes"] = ("Bytes of them.", self._pushed.held_bytes)
            counters["blyan_pushed_used"] = ("Blocks that were not fetched because they had been pushed.", self._pushed.used)
            counters["blyan_pushed_dropped"] = ("Pushed blocks that were not used.", self._pushed.dropped)
        lag = GaugeMetricFamily(
            "blyan_lag_seconds", "From the announcement of a slot until its rows can be read, of the last 1,000 blocks.", labels=["quantile"]
        )
        for quantile in LAG_QUANTILES:
            lag.add_metric([f"{quantile:g}"], quantile_of(measures.lags_s, quantile))
        yield lag
        for name, (prose, value) in gauges.items():
            yield GaugeMetricFamily(name, prose, value)
        for name, (prose, value) in counters.items():
            yield CounterMetricFamily(name, prose, value)
