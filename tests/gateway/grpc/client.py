"""Makes the calls that stand on standard input, all on one channel, and prints what came of each.

In: {"target", "calls": [{"method", "kind", "messages", "metadata", "timeout", "at_once"}]}, where `at_once` is how many
of the same there are at the same time. Out: one line for each, {"code", "details", "messages", "initial", "trailing"}.
"""

import json
import queue
import sys
from concurrent import futures

import grpc


def pairs(metadata):
    return [[key, value if isinstance(value, str) else value.hex()] for key, value in metadata or ()]


def make(channel, call):
    kind, messages = call["kind"], [message.encode() for message in call["messages"]]
    metadata = [tuple(pair) for pair in call.get("metadata", ())]
    options = {"metadata": metadata, "timeout": call.get("timeout", 30)}
    method = getattr(channel, kind)(call["method"])
    got = []
    try:
        if kind == "unary_unary":
            response, finished = method.with_call(messages[0], **options)
            got.append(response)
        elif kind == "stream_unary":
            response, finished = method.with_call(iter(messages), **options)
            got.append(response)
        elif kind == "unary_stream":
            finished = method(messages[0], **options)
            for response in finished:
                got.append(response)
        else:
            # Each message is said after the answer to the one before has come.
            said = queue.SimpleQueue()
            finished = method(iter(said.get, None), **options)
            for message in messages:
                said.put(message)
                got.append(next(finished))
            said.put(None)
            for response in finished:
                got.append(response)
    except grpc.RpcError as error:
        finished = error
    # Also waits for the end.
    code = finished.code()
    return {
        "code": code.value[0],
        "details": finished.details(),
        "messages": [message.decode() for message in got],
        "initial": pairs(finished.initial_metadata()),
        "trailing": pairs(finished.trailing_metadata()),
    }


asked = json.load(sys.stdin)
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
with grpc.insecure_channel(asked["target"], options=options) as channel:
    for call in asked["calls"]:
        count = call.get("at_once", 1)
        with futures.ThreadPoolExecutor(max_workers=count) as pool:
            for came in pool.map(lambda _: make(channel, call), range(count)):
                print(json.dumps(came), flush=True)
