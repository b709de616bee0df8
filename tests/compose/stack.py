"""The compose file, brought up for a test: its own project name, image name, ports and volumes."""

import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import grpc
import pika
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGE_HELP = "test this image, built before, instead of building one"
PORTS = ["AMQP", "RABBITMQ_MANAGEMENT", "POSTGRES", "ORDERS", "CALLBACK"]
OURS = ["orders", "logistics", "callback"]


class Failure(Exception):
    """An expected state did not come true, or not yet."""


class Hopeless(Exception):
    """An expected state can no longer come true: waiting for it is in vain."""


class Stack:
    """One project. As a context: up on entry, down on exit, with the logs shown if something failed."""

    def __init__(self, image=None):
        self.project = f"countersign-test-{os.getpid()}"
        self.image = image
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COUNTERSIGN_")},
            **{f"COUNTERSIGN_PORT_{name}": str(port) for name, port in self.ports.items()},
            "COUNTERSIGN_IMAGE": image or self.project,
        }

    def __enter__(self):
        # An interrupted test takes its containers down, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        return self

    def __exit__(self, kind, failure, _):
        if isinstance(failure, Exception):
            print("\nThe end of every service's log:", flush=True)
            self.compose("ps", "--all", check=False)
            self.compose("logs", "--no-color", "--tail", "60", check=False)
        self.compose("down", "--volumes", "--timeout", "3", check=False, quiet=True)
        if not self.image:
            subprocess.run(["docker", "image", "rm", "--force", self.project], capture_output=True)

    def build_and_up(self, *arguments):
        """As the README says: builds the image, unless there is one, and brings everything up."""
        build = [] if self.image else ["--build"]
        self.up(*build, *arguments)

    def up(self, *arguments):
        """Brings all services up, and waits until they are healthy."""
        self.compose("up", "--detach", "--wait", *arguments, quiet=True)

    def compose(self, *arguments, check=True, quiet=False):
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        return self.run(command, check, quiet)

    def output(self, *arguments):
        """The standard output of a compose command."""
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, check=True, text=True, stdout=subprocess.PIPE).stdout

    def run(self, command, check, quiet):
        output = dict(capture_output=True, text=True) if quiet else {}
        done = subprocess.run(command, cwd=ROOT, env=self.environment, **output)
        if check and done.returncode != 0:
            raise Failure(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr or ''}")
        return done

    def containers(self, *services):
        """`docker inspect` of the containers of these services."""
        ids = self.output("ps", "--all", "--quiet", *services).split()
        return json.loads(subprocess.run(["docker", "inspect", *ids], check=True, stdout=subprocess.PIPE).stdout)

    def orders(self):
        return Grpc(self.ports["ORDERS"])

    def callback(self):
        return Grpc(self.ports["CALLBACK"])

    def sql(self, database, query):
        """The rows of a query, each a list of texts."""
        rows = self.output("exec", "--no-TTY", "postgres", "psql", "--username=postgres", "--no-align", "--tuples-only",
                           "--set=ON_ERROR_STOP=1", "--field-separator=\t", database, f"--command={query}")
        return [row.split("\t") for row in rows.splitlines()]

    def amqp_url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.ports['AMQP']}/%2f"

    @contextlib.contextmanager
    def channel(self):
        connection = pika.BlockingConnection(pika.URLParameters(self.amqp_url()))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def depth(self, queue):
        """How many messages are ready in a queue. Messages that a consumer holds do not count."""
        with self.channel() as channel:
            return channel.queue_declare(queue, passive=True).method.message_count


    def redeliveries(self, queue):
        """How many redeliveries the broker has made, as far as its figures show by now."""
        url = f"http://127.0.0.1:{self.ports['RABBITMQ_MANAGEMENT']}/api/queues/%2F/{queue}"
        request = urllib.request.Request(url)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer).get("message_stats", {}).get("redeliver", 0)


class Grpc:
    """Calls by reflection alone, as grpcurl does: no generated code."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, service, method, **fields):
        """The response as a dictionary with every field; raises grpc.RpcError."""
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = message_factory.GetMessageClass(descriptor.input_type)(**fields)
        response = message_factory.GetMessageClass(descriptor.output_type)
        rpc = self.channel.unary_unary(f"/{service}/{method}", type(request).SerializeToString, response.FromString)
        return json_format.MessageToDict(
            rpc(request, timeout=10), preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    def place_order(self, name):
        return self.call("orders.v1.Orders", "PlaceOrder", name=name)

    def request_resend(self, message_id, **fields):
        return self.call("countersign.v1.Upstream", "RequestResend", message_id=message_id, **fields)

    def message(self, message_id):
        return self.call("countersign.v1.Callback", "GetMessage", message_id=message_id)


def eventually(what, seconds, probe):
    """Waits until `probe()` returns something true, and returns that. `probe` may raise `Failure`
    to say which state it sees instead."""
    deadline = time.monotonic() + seconds
    seen = None
    while True:
        try:
            result = probe()
            if result:
                return result
        except Failure as failure:
            seen = failure
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {what}; seen last: {seen}")
        time.sleep(0.02)


def expect(condition, otherwise):
    if not condition:
        raise Failure(otherwise)
    return condition


def free_ports(count):
    """Ports without a listener, from below the range that outgoing connections take theirs from."""
    ports = []
    candidate = 20_000 + os.getpid() % 10_000
    while len(ports) < count:
        candidate += 1
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                ports.append(candidate)
    return ports


def uuid7(ms):
    """An id of that moment (RFC 9562, section 5.7)."""
    random = int.from_bytes(os.urandom(10), "big")
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (2**62 - 1)))


def now_ms():
    return time.time_ns() // 1_000_000
