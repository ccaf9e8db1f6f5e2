"""A MongoDB for a test's Girder: mongoeco's server in memory, run by a Python >= 3.13 that has it.

    python mongo.py PORT

pymongo asks `buildinfo` in small letters, which MongoDB takes and mongoeco does not: the command's name is put right on its way.
"""

import asyncio
import sys

from mongoeco import wire
from mongoeco.wire import executor


def lenient(build):
    """`build_request_context` with the name of the command as mongoeco spells it."""

    def wrapped(*arguments, **named):
        def repaired(value):
            if isinstance(value, dict) and "buildinfo" in value:
                return {"buildInfo" if key == "buildinfo" else key: item for key, item in value.items()}
            return "buildInfo" if value == "buildinfo" else value

        return build(*map(repaired, arguments), **{key: repaired(value) for key, value in named.items()})

    return wrapped


async def main(port):
    executor.build_request_context = lenient(executor.build_request_context)
    server = wire.AsyncMongoEcoProxyServer(host="127.0.0.1", port=port)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
