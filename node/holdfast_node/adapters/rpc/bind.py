"""From a service of a .proto file to gRPC's handlers: every method of it must have an implementation."""

from __future__ import annotations

import re
from typing import Final, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from holdfast_node.adapters.rpc.guard import MakeHandler

_MAKES: Final[dict[tuple[bool, bool], object]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether requests and replies are streams."""


def bind(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    """`implementation` has a method `get_bucket(request, context)` for the RPC GetBucket, and so on for each."""
    handlers = {method.name: _handler(method, implementation) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def bind_raw(path: str, serve: object) -> grpc.GenericRpcHandler:
    """A stream of bytes both ways: `serve(messages, context)` reads and writes through the context."""
    service, method = path.strip("/").split("/")
    make = cast("MakeHandler", grpc.stream_stream_rpc_method_handler)
    handler = make(serve, request_deserializer=None, response_serializer=None)
    return grpc.method_handlers_generic_handler(service, {method: _typed(handler)})


def _handler(method: MethodDescriptor, implementation: object) -> grpc.RpcMethodHandler[object, object]:
    serve: object = getattr(implementation, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower())
    make = cast("MakeHandler", _MAKES[method.client_streaming, method.server_streaming])
    handler = make(
        serve,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
    return _typed(handler)


def _typed(handler: object) -> grpc.RpcMethodHandler[object, object]:
    return cast("grpc.RpcMethodHandler[object, object]", handler)
