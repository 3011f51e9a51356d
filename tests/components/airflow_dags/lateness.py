"""How late the triggerer's event loop is: what it says of sleeping, over some seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

INTERVAL = 0.02


class LatenessTrigger(BaseTrigger):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.LatenessTrigger", {"seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        before, end = loop.time(), loop.time() + self.seconds
        while before < end:
            await asyncio.sleep(INTERVAL)
            now = loop.time()
            late.append(now - before - INTERVAL)
            before = now
        late.sort()
        yield TriggerEvent(
            {
                "p50": late[len(late) // 2],
                "p99": late[int(len(late) * 0.99)],
                "worst": late[-1],
            }
        )


class LatenessOperator(BaseOperator):
    def __init__(self, *, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def execute(self, context: Any) -> None:
        self.defer(trigger=LatenessTrigger(self.seconds), method_name="tell")

    def tell(self, context: Any, event: dict[str, float]) -> dict[str, float]:
        return event
