"""Health: what is wrong, what caused it, and what may be done about it.

Run: python examples/python/health.py
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta

from sophia import Probe, Sophia


async def main() -> None:
    async with Sophia() as s:
        # A probe is a URL, a port, or any function that returns a status.
        s.health.register("crm", probe=Probe.callback(lambda: {"status": "ok", "score": 90}), weight=0.6)
        s.health.register("mail", probe=Probe.callback(lambda: {"status": "degraded", "score": 60}), weight=0.4)
        await s.health.check_all()
        report = await s.health.report()
        print(f"overall {report.overall.score}: {report.overall.status}")
        assert report.overall.score == 78.0

        # Which way is bad is part of the rule.
        s.health.rule("cache_hit_ratio", warning=0.6, critical=0.4, direction="higher_is_better")
        for _ in range(5):
            s.health.observe("chat", "cache_hit_ratio", 0.05)
        for alert in s.health.alerts():
            print(f"{alert.severity}: {alert.title}")
        assert [alert.severity for alert in s.health.alerts()] == ["critical"]

        # An hour in which a slow database makes the shop slow, a minute later.
        noise = random.Random(1)
        start = datetime.now(UTC) - timedelta(minutes=59)
        database = [5 + noise.gauss(0, 0.3) + (30 if 40 <= minute < 50 else 0) for minute in range(60)]
        for minute in range(60):
            at = start + timedelta(minutes=minute)
            s.health.observe("database", "latency_ms", database[minute], at=at)
            s.health.observe("shop", "latency_ms", 100 + 10 * database[max(minute - 1, 0)] + noise.gauss(0, 5), at=at)
            s.health.observe("mail", "latency_ms", 50 + noise.gauss(0, 5), at=at)
        s.health.depends("shop", on="database")
        report = await s.health.report()
        pair, cause = report.correlations[0], report.root_causes[0]
        print(f"{pair.a.service} and {pair.b.service} move together, {abs(pair.lag_s):.0f} s apart")
        print(f"cause: {cause.service}")
        assert cause.service == "database"

        # An action runs at once only where the risk is low; otherwise a person decides.
        done: list[str] = []
        s.health.action("restart", done.append, risk="low", cooldown=1800)
        s.health.action("fail_over", done.append, risk="high")
        print("restart:", (await s.health.trigger("restart", "database")).status)
        print("restart again:", (await s.health.trigger("restart", "database")).status)
        waiting = await s.health.trigger("fail_over", "database")
        print("fail over:", waiting.status)
        print("fail over, approved:", (await s.health.approve(waiting.id, by="ops@acme")).status)
        assert done == ["database", "database"]


asyncio.run(main())
