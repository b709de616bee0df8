"""A consumer that knows nothing of Countersign but its wire contract.

It declares a queue of its own, binds it to the upstream's exchange, and confirms what it consumes.
It takes no part in anything else: no SDK, no inbox but a set in memory. Written with pika alone.

Prints one JSON object per line:
    {"event": "ready"}                               consuming; what is published from now on arrives
    {"event": "consumed", "message_id", "attempt", "duplicate", "body"}
    {"event": "confirmed", "message_id", "outcome"}  the broker has the confirm; the delivery is acked
    {"event": "done", "confirmed"}                   exit code 0
Exit code 1 with a reason on standard error when --timeout passes before --count messages.
"""

import argparse
import json
import sys
import time

import pika

CONFIRM_EXCHANGE = "countersign.confirm"


def main():
    args = arguments()
    connection = pika.BlockingConnection(pika.URLParameters(args.amqp_url))
    confirms = connection.channel()
    confirms.confirm_delivery()  # basic_publish now returns when the broker has the message
    deliveries = connection.channel()
    declare(deliveries, args)

    deadline = time.monotonic() + args.timeout
    seen, confirmed = set(), 0
    for method, properties, body in deliveries.consume(args.queue, inactivity_timeout=0.2):
        if time.monotonic() > deadline:
            sys.exit(f"only {confirmed} of {args.count} messages in {args.timeout} s")
        if method is None:
            continue
        message_id = properties.message_id
        headers = properties.headers or {}
        say("consumed", message_id=message_id, attempt=headers.get("countersign-attempt"),
            duplicate=message_id in seen, body=body.decode("utf-8", "replace"))
        seen.add(message_id)
        confirms.basic_publish(
            CONFIRM_EXCHANGE,
            routing_key=args.shard,
            body=json.dumps(confirm(args, properties, headers)).encode(),
            properties=pika.BasicProperties(content_type="application/json", delivery_mode=2),
            mandatory=True,
        )
        deliveries.basic_ack(method.delivery_tag)
        say("confirmed", message_id=message_id, outcome=args.outcome)
        confirmed += 1
        if confirmed == args.count:
            break
    connection.close()
    say("done", confirmed=confirmed)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp-url", required=True)
    parser.add_argument("--queue", required=True, help="declared, and bound to --exchange if given")
    parser.add_argument("--exchange", help="the upstream's exchange, which has to exist")
    parser.add_argument("--key", default="#")
    parser.add_argument("--consumer", required=True, help="the name to confirm under")
    parser.add_argument("--count", type=int, default=1, help="how many deliveries to confirm")
    parser.add_argument("--shard", default="0", help="the key to confirm with; any reaches a shard")
    parser.add_argument("--outcome", choices=["processed", "rejected", "retrying"], default="processed")
    parser.add_argument("--reason", help="with --outcome rejected or retrying")
    parser.add_argument("--retry-in", type=float, default=60, help="seconds, with --outcome retrying")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for everything")
    return parser.parse_args()


def declare(channel, args):
    channel.basic_qos(prefetch_count=20)
    channel.queue_declare(args.queue, durable=True, arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": 100000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{args.queue}.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    })
    channel.queue_declare(f"{args.queue}.dead", durable=True, arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": 100000,
    })
    if args.exchange:
        channel.queue_bind(args.queue, args.exchange, args.key)
    say("ready")


def confirm(args, properties, headers):
    entry = {"id": properties.message_id, "outcome": args.outcome, "queue": args.queue, "at_ms": now_ms()}
    if properties.app_id:
        entry["upstream"] = properties.app_id
    if "countersign-attempt" in headers:
        entry["attempt"] = headers["countersign-attempt"]
    if "countersign-published-at-ms" in headers:
        entry["published_at_ms"] = headers["countersign-published-at-ms"]
    if args.reason:
        entry["reason"] = args.reason
    if args.outcome == "retrying":
        entry["until_ms"] = now_ms() + int(args.retry_in * 1000)
    return {"v": 1, "consumer": args.consumer, "confirms": [entry]}


def now_ms():
    return time.time_ns() // 1_000_000


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    main()
