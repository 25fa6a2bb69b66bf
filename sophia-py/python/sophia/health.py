"""Health: what is wrong, since when, and who is affected; measured, never invented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ._callbacks import MayBlock, OneAtATime, OneLook
from ._sophia import Engine, Stream
from ._wire import Reading, Request, awaited, blocking, given, reader, same
from .errors import InvalidInputError
from .memory import Seconds, Time
from .types import ActionResult, Alert, Direction, Risk, SeriesView, ServiceCheck, SystemHealth, UnifiedHealth

__all__ = ["Health", "HealthEvents", "Probe"]

Outcome = str | Mapping[str, Any]
"""What a callback says: "ok", "degraded", "down"…, or a mapping of status, score (0..100) and detail."""


@dataclass(frozen=True)
class Probe:
    """A way to ask a service how it is. Made by `Probe.http` and its siblings."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[[], Outcome | Awaitable[Outcome]] | None = None

    @staticmethod
    def http(url: str, *, headers: Mapping[str, str] | None = None, expect: Sequence[int] | None = None) -> Probe:
        """Gets a URL. Any 2xx or 3xx is healthy, or those in `expect`; a body that names a status is believed."""
        return Probe("http", given(url=url, headers=headers, expect=expect))

    @staticmethod
    def tcp(host: str, port: int) -> Probe:
        """Opens a TCP connection."""
        return Probe("tcp", {"host": host, "port": port})

    @staticmethod
    def callback(function: Callable[[], Outcome | Awaitable[Outcome]]) -> Probe:
        """Calls a function, sync or async. A sync one runs on a thread, so it may block.

        A thread cannot be stopped: while a look goes on there, further ones of the same function wait for what it sees, each
        for its own time.
        """
        return Probe("callback", function=OneLook(function))


class HealthEvents(Reading[dict[str, Any]]):
    """What happens, as it happens: `async for event in s.health.subscribe()`, each `{type, data, timestamp}`."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, same)


class Health:
    """Services that are looked after, signals that are watched, alerts that are raised once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(
        self,
        service: str,
        *,
        probe: Probe,
        interval: Seconds | None = None,
        timeout: Seconds | None = None,
        fail_after: int | None = None,
        ok_after: int | None = None,
        weight: float = 1.0,
        critical: bool = False,
        group: str | None = None,
        depends_on: Sequence[str] = (),
    ) -> None:
        """Looks after a service from now on: every `interval` (60 s), for at most `timeout` (5 s).

        It is down after `fail_after` (3) failures in a row, and up after `ok_after` (2) successes. Services of one
        `group` that fail together share an alert.
        """
        if not isinstance(probe, Probe):
            told = f"health.register: `probe` is a {type(probe).__name__}: give Probe.http(url), Probe.tcp(…) or Probe.callback(…)"
            raise InvalidInputError(told, operation="health.register", context={"field": "probe"})
        registration = given(
            service=service,
            interval=interval,
            timeout=timeout,
            fail_after=fail_after,
            ok_after=ok_after,
            weight=weight,
            critical=critical,
            group=group,
            depends_on=depends_on,
        )
        if probe.function is not None:
            self._engine.health_register(registration, probe.function)
        else:
            registration["probe"] = {"kind": probe.kind, **probe.options}
            self._engine.call_sync("health.register", registration)

    def unregister(self, service: str) -> bool:
        """Forgets a service; returns whether it was registered."""
        known: bool = self._engine.call_sync("health.unregister", {"service": service})
        return known

    def depends(self, service: str, on: str) -> None:
        """Says that `service` calls `on`."""
        self._engine.call_sync("health.depends", {"service": service, "on": on})

    def maintenance(self, service: str, until: Time) -> None:
        """Says that a service is being worked on, and raises nothing until then."""
        self._engine.call_sync("health.maintenance", {"service": service, "until": until})

    def observe(
        self,
        service: str,
        metric: str,
        value: float,
        *,
        at: Time | None = None,
        unit: str | None = None,
        direction: Direction | None = None,
        weight: int = 1,
    ) -> None:
        """Takes in a measured point; `at` may be up to an hour ago."""
        point = given(
            service=service, metric=metric, value=value, at=at, unit=unit, direction=direction, weight=weight
        )
        self._engine.call_sync("health.observe", point)

    def rule(
        self,
        metric: str,
        *,
        direction: Direction,
        service: str | None = None,
        warning: float | None = None,
        critical: float | None = None,
        for_n: int = 1,
        cooldown: Seconds = 300,
        auto_resolve: bool = True,
    ) -> None:
        """Sets when the values of a metric are an alert; `direction` says which way is bad."""
        rule = given(
            metric=metric,
            direction=direction,
            service=service,
            warning=warning,
            critical=critical,
            for_n=for_n,
            cooldown=cooldown,
            auto_resolve=auto_resolve,
        )
        self._engine.call_sync("health.rule", rule)

    def _check(self, service: str) -> Request[ServiceCheck]:
        """Looks at one service now."""
        return Request("health.check", {"service": service}, reader(ServiceCheck))

    check = awaited(_check)
    check_sync = blocking(_check)

    def _check_all(self, *, concurrency: int = 64, deadline: Seconds = 5) -> Request[dict[str, ServiceCheck]]:
        """Looks at all services at once, before one deadline: hung ones cost it once."""
        arguments = given(concurrency=concurrency, deadline=deadline)
        return Request("health.check_all", arguments, reader(dict[str, ServiceCheck]))

    check_all = awaited(_check_all)
    check_all_sync = blocking(_check_all)

    def _report(self) -> Request[SystemHealth]:
        """Returns how everything is, and why."""
        return Request("health.report", {}, reader(SystemHealth))

    report = awaited(_report)
    report_sync = blocking(_report)

    def _unified(self) -> Request[UnifiedHealth]:
        """Returns how everything is, in the shape of the unified dashboard."""
        return Request("health.unified", {}, reader(UnifiedHealth))

    unified = awaited(_unified)
    unified_sync = blocking(_unified)

    def series(self, service: str, metric: str, *, window: Seconds = 3600, buckets: int = 60) -> SeriesView:
        """Returns the recent history of one signal."""
        arguments = {"service": service, "metric": metric, "window": window, "buckets": buckets}
        view: SeriesView = reader(SeriesView)(self._engine.call_sync("health.series", arguments))
        return view

    def alerts(
        self, *, state: Literal["active", "acknowledged", "silenced", "resolved", "all"] = "active"
    ) -> list[Alert]:
        """Returns alerts, the newest first."""
        alerts: list[Alert] = reader(list[Alert])(self._engine.call_sync("health.alerts", {"state": state}))
        return alerts

    def _ack(self, id: str, by: str) -> Request[Alert]:
        """Marks an alert as taken by someone."""
        return Request("health.ack", {"id": id, "by": by}, reader(Alert))

    ack = awaited(_ack)
    ack_sync = blocking(_ack)

    def _resolve(self, id: str, by: str) -> Request[Alert]:
        """Ends an alert by hand."""
        return Request("health.resolve", {"id": id, "by": by}, reader(Alert))

    resolve = awaited(_resolve)
    resolve_sync = blocking(_resolve)

    def _silence(self, match: Mapping[str, Any], until: Time) -> Request[None]:
        """Silences the alerts that match until then."""
        return Request("health.silence", {"match": match, "until": until}, lambda _: None)

    silence = awaited(_silence)
    silence_sync = blocking(_silence)

    def action(
        self,
        name: str,
        function: Callable[[str], Any],
        *,
        risk: Risk = "low",
        cooldown: Seconds = 1800,
        max_attempts: int = 3,
        timeout: Seconds = 60,
        verify: Callable[[str], bool | None | Awaitable[bool | None]] | None = None,
        rollback: Callable[[str], Any] | None = None,
    ) -> None:
        """Makes a healing action known; each function is given the target.

        Low risk runs at once; medium only where the cause is clear, else it waits for an approval; high waits for one
        approval, critical for two. `verify` says whether it helped, or None where it cannot tell; if it did not, or took
        longer than `timeout`, `rollback` takes it back. Each may block: what is no coroutine function runs on a thread. A
        thread cannot be stopped: what takes too long goes on there, and is not begun again on the same target meanwhile.
        """
        action = {"name": name, "risk": risk, "cooldown": cooldown, "max_attempts": max_attempts, "timeout": timeout}
        look, undo = verify and MayBlock(verify), rollback and MayBlock(rollback)
        self._engine.health_action(action, OneAtATime(function), look, undo)

    def _trigger(
        self, name: str, target: str, *, reason: str | None = None, dry_run: bool = False
    ) -> Request[ActionResult]:
        """Asks for an action: it runs, or the result says why not, or what it waits for. `dry_run` only tells."""
        arguments = given(name=name, target=target, reason=reason, dry_run=dry_run)
        return Request("health.trigger", arguments, reader(ActionResult))

    trigger = awaited(_trigger)
    trigger_sync = blocking(_trigger)

    def pending(self) -> list[ActionResult]:
        """Returns the actions that wait for an approval, the oldest first."""
        waiting: list[ActionResult] = reader(list[ActionResult])(self._engine.call_sync("health.pending", {}))
        return waiting

    def audit(self) -> list[ActionResult]:
        """Returns what became of the last actions, the newest first."""
        past: list[ActionResult] = reader(list[ActionResult])(self._engine.call_sync("health.audit", {}))
        return past

    def _approve(self, id: str, *, by: str) -> Request[ActionResult]:
        """Approves an action that waits."""
        return Request("health.approve", {"id": id, "by": by}, reader(ActionResult))

    approve = awaited(_approve)
    approve_sync = blocking(_approve)

    def _reject(self, id: str, *, by: str) -> Request[ActionResult]:
        """Refuses an action that waits."""
        return Request("health.reject", {"id": id, "by": by}, reader(ActionResult))

    reject = awaited(_reject)
    reject_sync = blocking(_reject)

    def subscribe(self) -> HealthEvents:
        """Returns what happens from now on, until the engine is closed."""
        return HealthEvents(self._engine.health_subscribe())

    def prometheus(self) -> str:
        """Returns every metric as Prometheus text."""
        text: str = self._engine.call_sync("health.prometheus", {})
        return text
