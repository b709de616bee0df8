"""A client that publishes garbage to everything the wire contract names. It must harm nothing.

What cannot be read has to turn up in quarantine (or, from the consumer's queue, in its `.dead`
queue) with a reason, good entries among the bad ones have to be taken, and nothing may loop, stop
or take a good message with it. Written with pika alone; knows only the wire contract.

It does not forge `x-death` headers: RabbitMQ before 4.0 believes them.

Prints one JSON object per line:
    {"event": "published", "exchange", "key", "garbage", "bytes", "outcome", "expected": {…}}
        outcome   routed | returned | refused | closed (the broker closed the channel over it)
        expected  what becomes of it, as counted below
    {"event": "done", "published", "outcomes": {…}, "expected": {…}}
`expected` counts only what was routed:
    quarantined   envelopes that cannot be read: whole in quarantine
    refused       single entries of readable envelopes: in quarantine, those of an envelope together
    direct        messages published to the quarantine itself
    dead          messages in the consumer's `.dead` queue
    confirms      ids (a list): good confirms among garbage, which have to be recorded
    checks        ids (a list): good checks among garbage, which have to be looked up
"""

import argparse
import collections
import datetime
import decimal
import json
import os
import sys
import time
import uuid

import pika

MIB = 1024 * 1024
DAY_MS = 24 * 60 * 60 * 1000


def main():
    args = arguments()
    broker = Broker(args.amqp_url)
    outcomes, total = collections.Counter(), collections.defaultdict(int, confirms=[], checks=[])
    for target, garbage in everything(args):
        outcome = broker.publish(target, garbage)
        outcomes[outcome] += 1
        expected = garbage.expected if outcome == "routed" else {}
        for name, value in expected.items():
            total[name] += value
        say("published", exchange=target.exchange, key=target.key, garbage=garbage.name,
            bytes=len(garbage.body), outcome=outcome, expected=expected)
    broker.close()
    say("done", published=sum(outcomes.values()), outcomes=outcomes, expected=total)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp-url", required=True)
    parser.add_argument("--upstream", default="orders", help="one that the callback service knows")
    parser.add_argument("--tier", default="5s", help="one that the callback service has a queue for")
    parser.add_argument("--exchange", default="orders", help="the upstream's exchange")
    parser.add_argument("--key", default="order.placed")
    parser.add_argument("--queue", default="logistics.orders", help="a consumer's queue")
    parser.add_argument("--retry-queue", default="logistics.orders.retry.1s")
    parser.add_argument("--big-mib", type=int, default=15, help="size of the largest body; RabbitMQ 4 takes 16")
    return parser.parse_args()


Target = collections.namedtuple("Target", "exchange key")
Garbage = collections.namedtuple("Garbage", "name body expected properties", defaults=[{}])


def everything(args):
    """Every target with every piece of garbage for it."""
    check = lambda: with_odd_properties(envelopes(Check(args.upstream), args.big_mib))
    confirm = lambda: with_odd_properties(envelopes(Confirm(), args.big_mib))
    business = lambda: business_messages(args.big_mib)
    yield from to(Target("countersign.check", args.tier), check())
    yield from to(Target("countersign.check.due", ""), check())
    yield from to(Target("", "countersign.check.due"), check())
    yield from to(Target("", f"countersign.check.wait.{args.tier}"), check())
    yield from to(Target("countersign.confirm", "0"), confirm())
    yield from to(Target("countersign.confirm", "no-such-shard"), confirm())
    yield from to(Target("countersign.confirm.fallback", ""), confirm())
    yield from to(Target("", "countersign.confirm.0"), confirm())
    yield from to(Target(args.exchange, args.key), business())
    yield from to(Target("", args.queue), business())
    yield from to(Target("", args.retry_queue), business())
    # No consumer reads these queues: messages stay there as they are.
    yield from to(Target("", f"{args.queue}.dead"), all_expected(business(), "dead"))
    yield from to(Target("countersign.quarantine", ""), all_expected(check(), "direct"))
    yield from to(Target("", "countersign.quarantine"), all_expected(confirm(), "direct"))
    # These keys lead nowhere: the broker has to return the check, which means "not armed".
    for tier in ["", "5", "1s", "5 s", "#", "x" * 255, "countersign.check.due"]:
        yield from to(Target("countersign.check", tier), [Garbage("a good check of an unknown tier", Check(args.upstream).envelope(1)[0], {})])


def to(target, pieces):
    return ((target, garbage) for garbage in pieces)


def all_expected(pieces, where):
    return (garbage._replace(expected={where: 1}) for garbage in pieces)


class Check:
    """Check envelopes, good ones for spoiling."""

    def __init__(self, upstream):
        self.head = {"v": 1, "upstream": upstream, "armed_at_ms": now_ms()}
        self.name_field, self.list_field, self.taken = "upstream", "messages", "checks"

    def entry(self, message_id=None):
        return {"id": message_id or uuid7(), "consumers": ["logistics"]}

    def envelope(self, count):
        """A good envelope, and its expected effect."""
        entries = [self.entry() for _ in range(count)]
        return compact({**self.head, self.list_field: entries}), {self.taken: [e["id"] for e in entries]}

    def bad_entries(self):
        good = self.entry()
        for consumers in [[], None, "logistics", {}, [None], [7], [["logistics"]], [""], ["Logistics"], ["logi\0stics"],
                          ["logi\nstics"], ["logi\u0007stics"], ["☃"], ["x" * 65], ["x" * 100_000],
                          ["'; DROP TABLE overdue; --"], [f"c{n}" for n in range(17)], ["c"] * 5_000]:
            yield {**good, "consumers": consumers}
        yield {"id": good["id"]}


class Confirm:
    """Confirm envelopes, good ones for spoiling."""

    def __init__(self):
        self.head = {"v": 1, "consumer": "stranger"}
        self.name_field, self.list_field, self.taken = "consumer", "confirms", "confirms"

    def entry(self, message_id=None):
        return {"id": message_id or uuid7(), "outcome": "processed"}

    def envelope(self, count):
        entries = [self.entry() for _ in range(count)]
        return compact({**self.head, self.list_field: entries}), {self.taken: [e["id"] for e in entries]}

    def bad_entries(self):
        good = self.entry()
        for outcome in ["done", "Processed", "", "processed\0", None, 7, True, [], {}, "x" * 100_000]:
            yield {**good, "outcome": outcome}
        for until in [None, now_ms() + 25 * 3_600_000, 2**63 - 1, 2**70, 1.5, "soon", [], -(2**70)]:
            yield {**good, "outcome": "retrying", "until_ms": until}
        for field, values in {
            "upstream": ["Orders", "or\0ders", "x" * 65, 7, []],
            "queue": ["q\0", "q\n", "q" * 256, 7, {}],
            "attempt": [-1, 2**32, 2**70, 1.5, "1", []],
            "published_at_ms": ["now", 1.5, 2**70, {}],
            "at_ms": ["now", True],
            "reason": [7, [], {"a": 1}],
        }.items():
            for value in values:
                yield {**good, field: value}
        yield {"id": good["id"]}


def envelopes(kind, big_mib):
    """Everything that an envelope can be instead of good."""
    good, taken = kind.envelope(2)
    fields = json.loads(good)
    entries = fields[kind.list_field]

    def whole(name, body):
        body = body.encode() if isinstance(body, str) else body
        return Garbage(name, body, {"quarantined": 1})

    def but(**changes):
        return compact({**fields, **changes})

    yield whole("empty", "")
    yield whole("a word", "hello")
    yield whole("binary", bytes(range(256)) * 16)
    yield whole("random", os.urandom(4096))
    yield whole("NULs", "\0" * 1000)
    yield whole("XML", "<?xml version='1.0'?><check/>")
    yield whole("not UTF-8", good.replace(b'"v"', b'"\xff":1,"v"'))
    yield whole("UTF-16", good.decode().encode("utf-16"))
    yield whole("a byte order mark", b"\xef\xbb\xbf" + good)
    for length in [1, 10, len(good) // 2, len(good) - 1]:
        yield whole(f"cut off after {length} bytes", good[:length])
    yield whole("something after it", good + b"x")
    yield whole("twice", good + good)
    for other in [None, True, 7, 1.5, "text", [], {}, [1, fields.get("upstream"), now_ms(), entries]]:
        yield whole(f"JSON, but {str(other)[:20]}", json.dumps(other))
    for version in [0, 2, -1, 1.5, "1", None, [1], 2**64, 10**400]:
        yield whole(f"version {str(version)[:20]}", but(v=version))
    yield whole("no version", compact({k: v for k, v in fields.items() if k != "v"}))
    yield whole("every field twice", good[:-1] + b"," + good[1:])
    for name in ["", "Orders", "or\0ders", "or\nders", "☃", "x" * 65, "x" * 500_000, " orders", "-orders", None, 7, [], {}]:
        yield whole(f"{kind.name_field} {str(name)[:12]!r}", but(**{kind.name_field: name}))
    yield whole(f"no {kind.name_field}", compact({k: v for k, v in fields.items() if k != kind.name_field}))
    if kind.name_field == "upstream":
        # A message of an upstream without an address is not lost: it waits until there is one.
        yield Garbage("an upstream without an address", but(upstream="nobody"), taken)
        for at in ["now", None, 1.5, 2**70, []]:
            yield whole(f"armed_at_ms {at}", but(armed_at_ms=at))
    for entries_instead in [None, {}, "all", 7, []]:
        yield whole(f"{kind.list_field} {entries_instead}", but(**{kind.list_field: entries_instead}))
    yield whole("1,001 entries", kind.envelope(1_001)[0])
    yield whole("20,000 empty entries", but(**{kind.list_field: [{}] * 20_000}))
    yield whole("20,000 entries", kind.envelope(20_000)[0])
    yield whole("over 1 MiB of spaces", good + b" " * MIB)
    yield whole(f"{big_mib} MiB", good + b" " * (big_mib * MIB - len(good)))
    for opening, closing in [("[", "]"), ('{"a":', "}")]:
        nested = opening * 80_000 + "0" + closing * 80_000
        yield whole(f"nested 80,000 deep: {opening}", nested)
        yield Garbage(f"an unknown field nested 80,000 deep: {opening}", good[:-1] + b',"x":' + nested.encode() + b"}", taken)

    yield bad_entries_among_good_ones(kind)


def bad_entries_among_good_ones(kind):
    bad = list(kind.bad_entries())
    ahead, behind = now_ms() + DAY_MS + 3_600_000, now_ms() - 400 * DAY_MS
    for message_id in ["", "order-17", None, 7, 1.5, [], {}, "\0" * 36, "☃" * 12, "x" * 36, "x" * 100_000, str(uuid.uuid4()),
                       str(uuid.uuid1()), str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)), uuid7().replace("-", ""),
                       uuid7(ahead), uuid7(2**48 - 1), uuid7(behind), uuid7(0), f" {uuid7()} ", f"{{{uuid7()}}}"]:
        bad.append(kind.entry("placeholder") | {"id": message_id})
    bad += [None, True, 7, 1.5, "text", [], {}, [uuid7(), "processed"]]
    texts = [json.dumps(entry) for entry in bad]
    texts.append('{"id":"%s","consumers":["\\ud800"],"outcome":"\\ud800"}' % uuid7())  # half a character
    texts.append('{"id":"%s","id":"%s","consumers":["a"],"outcome":"processed"}' % (uuid7(), uuid7()))
    texts.append("[" * 50_000 + "]" * 50_000)
    good = [kind.entry() for _ in texts]
    interleaved = ",".join(f"{text},{json.dumps(entry)}" for text, entry in zip(texts, good))
    head = json.dumps(kind.head)[:-1]
    body = f'{head},"{kind.list_field}":[{interleaved}]}}'.encode()
    assert len(body) <= MIB and 2 * len(texts) <= 1000, "is to be refused by entries, not as a whole"
    return Garbage("bad entries among good ones", body, {"refused": len(texts), kind.taken: [e["id"] for e in good]})


def business_messages(big_mib):
    """Messages that no consumer can process: all end in the `.dead` queue."""
    dead = {"dead": 1}
    order = compact({"order_id": str(uuid.uuid4()), "name": "garbage"})
    ids = ["", "order-17", "\0" * 36, "\n", "☃", "x" * 255, str(uuid.uuid4()), str(uuid.uuid1()),
           str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)), uuid7().replace("-", "")]
    yield Garbage("no message_id", order, dead)
    for message_id in ids:
        yield Garbage(f"message_id {message_id[:36]!r}", order, dead, {"message_id": message_id})
    for ms in [now_ms() + 400 * DAY_MS, 2**48 - 1, now_ms() - 400 * DAY_MS, 0]:
        # The consumer rejects it by a confirm, whose id the callback service refuses in turn.
        yield Garbage(f"an id of {ms} ms", order, {"dead": 1, "refused": 1}, {"message_id": uuid7(ms)})
    for name, body in {
        "empty": b"", "a word": b"hello", "binary": bytes(range(256)), "not UTF-8": order.replace(b"garbage", b"\xff\xfe"),
        "cut off": order[:-3], "null": b"null", "an array": b"[]", "an empty object": b"{}", "wrong types": b'{"order_id":7,"name":[]}',
        "NUL in the name": compact({"order_id": str(uuid.uuid4()), "name": "a\0b"}), "nested": b"[" * 100_000 + b"]" * 100_000,
        "2 MiB": b" " * (2 * MIB), f"{big_mib} MiB": b" " * (big_mib * MIB),
    }.items():
        yield Garbage(f"a body that is no order: {name}", body, dead, {"message_id": uuid7(), "app_id": "orders"})
    for name, properties in odd_properties().items():
        yield Garbage(f"no order, and {name}", b"hello", dead, {"message_id": uuid7(), **properties})


def with_odd_properties(pieces):
    """The pieces, and a sample of them again with properties that no reader expects."""
    pieces = list(pieces)
    yield from pieces
    for garbage in pieces:
        if garbage.name in ("a word", "bad entries among good ones"):
            for name, properties in odd_properties().items():
                # Good ids never repeat: the test looks for each by itself.
                expected = {name: value for name, value in garbage.expected.items() if not isinstance(value, list)}
                yield garbage._replace(name=f"{garbage.name}, with {name}", expected=expected, properties=properties)


def odd_properties():
    headers = lambda **more: {"headers": more}
    return {
        "tables and lists in headers": headers(a={"b": {"c": [1, [2, {"d": None}]]}}, e=[]),
        "decimals, times, bytes and nothing in headers": headers(
            a=decimal.Decimal("1.5"), b=datetime.datetime(2026, 1, 1), c=b"\x00\xff", d=None, e=True, f=2**62, g=-1),
        "wrong kinds in the contract's own headers": {"headers": {
            "countersign-attempt": "first", "countersign-published-at-ms": {"a": 1}, "countersign-failures": -(2**60),
            "countersign-reason": [1], "countersign-source": None, "traceparent": 7}},
        "numbers out of range in the contract's own headers": {"headers": {
            "countersign-attempt": -1, "countersign-published-at-ms": -(2**63), "countersign-failures": 2**62}},
        "an attempt of 2^40": {"headers": {"countersign-attempt": 2**40, "countersign-failures": "99"}},
        "a header of 60 kB": headers(a="x" * 60_000),
        "500 headers": {"headers": {f"header-{n}": n for n in range(500)}},
        "odd names of headers": {"headers": {"": 1, "☃": 2, "x" * 128: 3, "a\0b": 4, "A B": 5}},
        "every property filled with nonsense": dict(
            content_type="☃/\0", content_encoding="rot13", correlation_id="x" * 255, reply_to="countersign.check.due",
            type="\n", app_id="Nobody At All", cluster_id="x", priority=255, timestamp=2**62),
        "delivery mode 1": dict(delivery_mode=1),
        "a trace that is none": headers(traceparent="00-zz", tracestate="=" * 500),
    }


class Broker:
    """One connection; a channel that the broker closes over a message is opened again."""

    def __init__(self, url):
        self.parameters = pika.URLParameters(url)
        self.parameters.heartbeat = 0  # the client is busy publishing, and gone soon
        self.connection = pika.BlockingConnection(self.parameters)
        self.open()

    def open(self):
        if self.connection.is_closed:
            self.connection = pika.BlockingConnection(self.parameters)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def publish(self, target, garbage):
        properties = pika.BasicProperties(**{"delivery_mode": 2, "content_type": "application/json", **garbage.properties})
        try:
            self.channel.basic_publish(target.exchange, target.key, garbage.body, properties, mandatory=True)
            return "routed"
        except pika.exceptions.UnroutableError:
            return "returned"
        except pika.exceptions.NackError:
            return "refused"
        except (pika.exceptions.AMQPChannelError, pika.exceptions.AMQPConnectionError) as closed:
            print(f"{target} {garbage.name}: {closed!r}", file=sys.stderr)
            self.open()
            return "closed"

    def close(self):
        self.connection.close()


def uuid7(ms=None):
    """RFC 9562, section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits."""
    ms = now_ms() if ms is None else ms
    random = int.from_bytes(os.urandom(10), "big")
    value = ms << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (2**62 - 1)
    return str(uuid.UUID(int=value))


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def now_ms():
    return time.time_ns() // 1_000_000


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    main()
