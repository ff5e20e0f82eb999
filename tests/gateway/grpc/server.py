"""An app that speaks gRPC, without generated code: messages are plain bytes.

Prints its port. Every call has `x-initial: begin` before its first message and `x-trailer: end` after its last.
"""

import json
import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Semaphore(0)


def metadata(context):
    return [[key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()]


def begin(context):
    context.send_initial_metadata((("x-initial", "begin"),))
    context.set_trailing_metadata((("x-trailer", "end"), ("x-binary-bin", b"\x00\xff")))


def unary(request, context):
    begin(context)
    return request


def server_stream(request, context):
    begin(context)
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, context):
    begin(context)
    return b"".join(requests)


def bidi(requests, context):
    begin(context)
    for request in requests:
        yield b"echo " + request


def told(_, context):
    begin(context)
    return json.dumps({"metadata": metadata(context), "remaining": context.time_remaining()}).encode()


def fail(request, context):
    begin(context)
    context.abort(grpc.StatusCode(grpc.StatusCode.FAILED_PRECONDITION), "not yet: \u00e4, %, \n")


def fail_in_the_middle(request, context):
    begin(context)
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "lost")


def slow(request, context):
    context.add_callback(cancelled.release)
    begin(context)
    yield b"first"
    threading.Event().wait(3600)


def was_cancelled(request, context):
    return b"yes" if cancelled.acquire(timeout=30) else b"no"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Told": grpc.unary_unary_rpc_method_handler(told),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailInTheMiddle": grpc.unary_stream_rpc_method_handler(fail_in_the_middle),
    "Slow": grpc.unary_stream_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
}

pool = futures.ThreadPoolExecutor(max_workers=64)
server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
server.add_generic_rpc_handlers(
    tuple(grpc.method_handlers_generic_handler(service, METHODS) for service in ("test.Team", "test.Public", "test.Admin"))
)
port = server.add_insecure_port("127.0.0.1:%s" % (sys.argv[1] if len(sys.argv) > 1 else "0"))
server.start()
print(port, flush=True)
# Until whoever started it closes the pipe.
sys.stdin.read()
server.stop(None)
