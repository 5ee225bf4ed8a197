"""What listeners cost a client: ``python -m a1_sgl.evals.benchmarks.telemetry``.

`a1` runs chains on an engine in this process, so that nothing but the client takes any time, without and with each
listener in turn: `Metrics`, and `Spans` with a processor that sends batches, encoded as OTLP, nowhere. CPU is the whole
process's, with the thread that encodes, and until that is done. Each figure is of pairs of runs, one after the other,
which comes first in turn: the median of their differences and its range.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.engine.protocol import Request, Served, Spent
from a1_sgl.evals.benchmarks.client import Case, drive
from a1_sgl.records import RunFolder
from a1_sgl.testing import FakeEngine
from a1_sgl.types import Listener, calls_of


class Telling(FakeEngine):
    """A fake engine that tells where a request's time went, as a runtime with ``--enable-metrics`` does."""

    def _spend(self, request: Request, started: float, cached: int, written: int) -> Spent:
        spent = super()._spend(request, started, cached, written)
        whole = spent.ended - spent.started
        return spent._replace(served=Served(whole, whole / 8, whole / 4))


def main(
    in_flight: Annotated[list[int] | None, typer.Option(help="Chains at once. [default: 64 and 1000]")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of runs for each figure.")] = 7,
    chains: Annotated[int, typer.Option(help="Chains of each run, about; never fewer than are at once.")] = 1024,
    like: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Runs; what as many calls would cost each of them.")
    ] = None,
) -> None:
    """CPU of a client by call, without and with each listener."""
    runs = {str(path): _calls_a_second(RunFolder.read(path)) for path in like or ()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("listener")
    for name in ("in flight", "calls", "without, us/call", "more, us/call [range]", "of the client's CPU", *runs):
        table.add_column(name, justify="right")
    for count in in_flight or (64, 1000):
        case = Case("a1", "in-process", count, 100, rounds=max(1, chains // count))
        drive(case, engine=Telling)  # what is imported and compiled is no part of it
        for name, listening in LISTENERS.items():
            without, more, calls = _paired(case, listening, pairs)
            cost, base = statistics.median(more), statistics.median(without)
            table.add_row(
                name, f"{count:,}", f"{calls:,}", f"{base:.0f}", f"{cost:.1f} [{min(more):.1f}, {max(more):.1f}]",
                f"{cost / base:.1%}", *(f"{cost * 1e-6 * rate:.2%}" for rate in runs.values()),
            )  # fmt: skip
    console = Console(width=160)
    console.print(table)
    if runs:
        console.print("RUN: of one core, at as many calls a second as the run had", highlight=False)


def _paired(
    case: Case, listening: Callable[[], Any], pairs: int
) -> tuple[Sequence[float], Sequence[float], int]:  # fmt: skip
    """Microseconds of CPU a call without a listener, and how many more with it, pair by pair; and calls of a run."""
    without, more, calls = [], [], 0
    for pair in range(pairs):
        cost = {}
        for heard in (False, True) if pair % 2 else (True, False):
            with listening() if heard else nullcontext() as listener:
                calls, _, watch = drive(case, listener, Telling)
                began = time.process_time()
            cost[heard] = 1e6 * (watch.cpu + time.process_time() - began) / calls
        without.append(cost[False])
        more.append(cost[True] - cost[False])
    return without, more, calls


@contextmanager
def _metrics() -> Iterator[Listener]:
    from a1_sgl.telemetry import Metrics

    yield Metrics("marginal")


@contextmanager
def _spans() -> Iterator[Listener]:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from a1_sgl.telemetry import Spans

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            encode_spans(spans).SerializeToString()
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=1 << 16))
    try:
        yield Spans(provider, models={"draft": "d", "target": "t"})
    finally:
        provider.shutdown()


LISTENERS = {"Metrics": _metrics, "Spans": _spans}


def _calls_a_second(folder: RunFolder) -> float:
    return len(calls_of(folder.events)) / folder.wall()


if __name__ == "__main__":
    typer.run(main)
