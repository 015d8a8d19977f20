"""Hundreds of clients that never pause, as a process of its own: `flooding.py URL CA TOKEN,TOKEN... CONNECTIONS`.

Two of three list every pod in one of three forms, the third makes ConfigMaps. Ends with its input, and says how often it was
answered with which code, and how often not at all.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections import Counter

import aiohttp

PODS = "/api/v1/pods"
FORMS = (
    (PODS, "application/json"), (f"{PODS}?labelSelector=app%3Dweb", "application/vnd.kubernetes.protobuf"),
    (PODS, "application/json;as=Table;v=v1;g=meta.k8s.io"),
)


async def client(session: aiohttp.ClientSession, url: str, token: str, number: int, counts: Counter[str]) -> None:
    path, accept = FORMS[number % len(FORMS)]
    headers, made = {"Authorization": f"Bearer {token}", "Accept": accept}, 0
    while True:
        made += 1
        body = {"metadata": {"name": f"flood-{number}-{made}"}, "data": {"k": "v" * 500}}
        try:
            if number % 3 == 0:
                asked = session.post(f"{url}/api/v1/namespaces/default/configmaps", json=body, headers=headers)
            else:
                asked = session.get(url + path, headers=headers)
            async with asked as reply:
                async for _ in reply.content.iter_any():
                    pass
            counts[str(reply.status)] += 1
        except (aiohttp.ClientError, OSError, TimeoutError):
            counts["none"] += 1
            await asyncio.sleep(0.1)


async def flood(url: str, ca: str, tokens: list[str], connections: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca), limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        tasks = [asyncio.create_task(client(session, url, tokens[number // 3 % len(tokens)], number, counts))
                 for number in range(connections)]
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return counts


if __name__ == "__main__":
    _, url, ca, tokens, connections = sys.argv
    print(json.dumps(asyncio.run(flood(url, ca, tokens.split(","), int(connections)))))
