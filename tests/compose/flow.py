"""The whole path through the compose file, as a user walks it. One line for each check."""

import argparse
import collections
import json
import re
import subprocess
import sys
import time

import grpc

from stack import IMAGE_HELP, OURS, ROOT, Failure, Hopeless, Stack, eventually, expect, now_ms, uuid7

CHECKS = []


def check(sentence):
    """Marks a check. Checks run in the order of this file, each on the state that the ones before left."""
    def add(function):
        CHECKS.append((sentence, function))
        return function
    return add


@check("docker compose up --build --wait becomes healthy")
def comes_up(stack):
    stack.build_and_up()
    for container in stack.containers():
        health = container["State"]["Health"]["Status"]
        expect(health == "healthy", f"{container['Name']} is {health}")


@check("one image serves all three, every port is on 127.0.0.1 only, and ours run without rights")
def is_locked_down(stack):
    ours = stack.containers(*OURS)
    images = {container["Image"] for container in ours}
    expect(len(ours) == 3 and len(images) == 1, f"{len(ours)} containers of {images}")
    for container in ours:
        host, user = container["HostConfig"], container["Config"]["User"]
        name = container["Name"]
        expect(host["ReadonlyRootfs"], f"{name} can write to its root file system")
        expect(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{name} has capabilities")
        expect("no-new-privileges:true" in host["SecurityOpt"], f"{name} can gain privileges")
        expect(user.split(":")[0] not in ("", "0", "root"), f"{name} runs as {user!r}")
    for container in stack.containers():
        for port, bindings in (container["NetworkSettings"]["Ports"] or {}).items():
            for binding in bindings or []:
                expect(binding["HostIp"] == "127.0.0.1", f"{container['Name']} publishes {port} on {binding}")


@check("an order placed over gRPC is shipped, and GetMessage says confirmed within a second")
def is_confirmed(stack):
    confirmed_within(stack, seconds=1.0)


def confirmed_within(stack, seconds):
    callback = stack.callback()
    placed = stack.orders().place_order("Ada")
    since = time.monotonic()
    message = eventually("confirmed", 15, lambda: in_state(callback, placed, "confirmed"))
    took = time.monotonic() - since
    expect(took <= seconds, f"confirmed after {took:.2f} s")
    expect([c["consumer"] for c in message["confirms"]] == ["logistics"], f"confirms: {message['confirms']}")
    shipped_once(stack, placed)
    return placed


def in_state(callback, placed, state):
    message = callback.message(placed["message_id"])
    expect(message["state"] == state, f"{message}")
    return message


def shipments(stack, placed):
    return len(stack.sql("logistics", f"SELECT name FROM shipments WHERE order_id = '{placed['order_id']}'"))


def shipped_once(stack, placed):
    count = shipments(stack, placed)
    expect(count == 1, f"order {placed['order_id']} has {count} shipments")


@check("a message destroyed while logistics is down arrives by resend, once")
def is_resent(stack):
    stack.compose("stop", "logistics", quiet=True)
    placed = stack.orders().place_order("Grace")
    eventually("one message to purge", 10, lambda: purged(stack, "logistics.orders"))
    stack.compose("start", "logistics", quiet=True)
    message = eventually("confirmed after a resend", 60, lambda: in_state(stack.callback(), placed, "confirmed"))
    expect(message["resends"] >= 1, f"no resend was asked for: {message}")
    expect(message["confirms"][0]["attempt"] >= 2, f"the first attempt was confirmed: {message}")
    expect(message["history"][-1]["to_state"] == "confirmed", f"history: {message['history']}")
    shipped_once(stack, placed)


def purged(stack, queue):
    with stack.channel() as channel:
        return channel.queue_purge(queue).method.message_count


@check("RequestResend by hand: a known id is republished, and ships nothing twice")
def known_id(stack):
    placed = confirmed_within(stack, seconds=15)
    answer = stack.orders().request_resend(placed["message_id"])
    expect(answer["outcome"] == "REPUBLISHED", f"{answer}")
    expect(abs(int(answer["published_at_ms"]) - now_ms()) < 60_000, f"{answer}")
    eventually("the second delivery is acked", 10, lambda: stack.depth("logistics.orders") == 0)
    confirmed_within(stack, seconds=15)  # this order went through the same queue after the other
    shipped_once(stack, placed)


@check("RequestResend by hand: a fresh unknown id is in progress")
def fresh_unknown_id(stack):
    answer = stack.orders().request_resend(uuid7(now_ms()))
    expect(answer["outcome"] == "IN_PROGRESS" and int(answer["retry_after_ms"]) > 0, f"{answer}")


@check("RequestResend by hand: an old unknown id was never committed, if the database is the one that is meant")
def old_unknown_id(stack):
    old = uuid7(now_ms() - 10 * 60_000)
    answer = stack.orders().request_resend(old)
    expect(answer["outcome"] == "UNKNOWN" and "names no database" in answer["reason"], f"{answer}")
    answer = stack.orders().request_resend(old, database="00000000-0000-4000-8000-000000000000")
    expect(answer["outcome"] == "MISDIRECTED", f"{answer}")
    [[database]] = stack.sql("orders", "SELECT database_id FROM countersign.identity")
    answer = stack.orders().request_resend(old, database=database)
    expect(answer["outcome"] == "NEVER_COMMITTED", f"{answer}")


@check("RequestResend by hand: nonsense is an invalid argument that says why")
def nonsense(stack):
    for text in ["", "nonsense", "d6f4c7a0-5f9b-4b7e-9a53-0f6c0d1e2f3a"]:
        try:
            answer = stack.orders().request_resend(text)
        except grpc.RpcError as error:
            expect(error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{text!r}: {error}")
            expect("message_id" in error.details(), f"{text!r}: {error.details()!r} does not name the field")
        else:
            raise Failure(f"{text!r} was answered: {answer}")


@check("garbage from a stranger harms nothing and is found in quarantine, all of it, with reasons")
def garbage(stack):
    take_from_quarantine(stack)
    dead_before = stack.depth("logistics.orders.dead")
    stranger = subprocess.run([sys.executable, "-B", ROOT / "tests/strangers/garbage.py", "--amqp-url", stack.amqp_url()],
                              check=True, text=True, stdout=subprocess.PIPE)
    expected = json.loads(stranger.stdout.splitlines()[-1])["expected"]
    with_reason = expected["quarantined"] + expected["refused"]
    found = collections.Counter()

    def all_quarantined():
        found.update(take_from_quarantine(stack))
        return expect(found.total() == with_reason + expected["direct"], f"{found} of {expected} in quarantine")

    def all_dead():
        there = stack.depth("logistics.orders.dead") - dead_before
        return expect(there == expected["dead"], f"{there} of {expected['dead']}")

    eventually("all pieces are in quarantine", 60, all_quarantined)
    eventually("all dead letters are in their queue", 60, all_dead)
    for queue in ("countersign.check.due", "countersign.confirm.0", "logistics.orders"):
        eventually(f"nothing left in {queue}", 30, lambda: stack.depth(queue) == 0)
    recorded = {row[0] for row in stack.sql("callback", "SELECT message_id FROM confirmation WHERE consumer = 'stranger'")}
    missing = set(expected["confirms"]) - recorded
    expect(not missing, f"{len(missing)} good confirms among the garbage are not recorded")
    # Messages that the stranger put there itself have no reason, but for a few with odd headers.
    expect(found[True] >= with_reason, f"only {found[True]} of {with_reason} have a reason")
    confirmed_within(stack, seconds=5)
    restarts = {container["Name"]: container["RestartCount"] for container in stack.containers(*OURS)}
    expect(not any(restarts.values()), f"restarts: {restarts}")


def take_from_quarantine(stack):
    """Takes all out. Counts the pieces with and without a reason: the reason of several entries says how many it is."""
    pieces = collections.Counter()
    with stack.channel() as channel:
        for _ in range(channel.queue_declare("countersign.quarantine", passive=True).method.message_count):
            _, properties, _ = channel.basic_get("countersign.quarantine", auto_ack=True)
            reason = (properties.headers or {}).get("countersign-reason") if properties else None
            several = re.match(r"(\d+) of \d+ entries: ", reason) if isinstance(reason, str) else None
            pieces[isinstance(reason, str)] += int(several[1]) if several else 1
    return pieces


@check("wrong settings are all named at once, with exit code 64")
def wrong_settings(stack):
    done = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "--env", "COUNTERSIGN_CHECK_DELAY=soon", "--env",
                         "COUNTERSIGN_DATABASE_URL=mysql://", "orders", check=False, quiet=True)
    expect(done.returncode == 64, f"exit code {done.returncode}: {done.stderr}")
    for name in ("COUNTERSIGN_CHECK_DELAY", "COUNTERSIGN_DATABASE_URL"):
        expect(name in done.stderr, f"{name} is not in {done.stderr!r}")


@check("docker compose down ends ours with exit code 0 in time, and an order waiting in the broker survives it")
def survives_down(stack):
    stack.compose("stop", "logistics", quiet=True)
    placed = stack.orders().place_order("Edsger")
    eventually("the message is in the broker", 10, lambda: stack.depth("logistics.orders") == 1)
    stack.compose("stop", "orders", "callback", quiet=True)
    codes = {container["Name"]: container["State"]["ExitCode"] for container in stack.containers(*OURS)}
    expect(not any(codes.values()), f"exit codes: {codes}")
    stack.compose("down", quiet=True)
    stack.up()
    eventually("confirmed", 60, lambda: in_state(stack.callback(), placed, "confirmed"))
    shipped_once(stack, placed)


@check("in the end every order has been shipped once, and nothing is unresolved")
def audit(stack):
    ordered = {row[0] for row in stack.sql("orders", "SELECT order_id FROM orders")}
    shipped = collections.Counter(row[0] for row in stack.sql("logistics", "SELECT order_id FROM shipments"))
    expect(ordered, "no order was placed")
    expect(ordered == set(shipped), f"not shipped: {ordered - set(shipped)}; shipped without an order: {set(shipped) - ordered}")
    doubled = [order for order, count in shipped.items() if count > 1]
    expect(not doubled, f"shipped more than once: {doubled}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", help=IMAGE_HELP)
    began = time.monotonic()
    with Stack(parser.parse_args().image) as stack:
        for passed, (sentence, function) in enumerate(CHECKS):
            since = time.monotonic()
            try:
                function(stack)
            except Exception as why:
                raise Hopeless(f"after {passed} of {len(CHECKS)} checks passed: {sentence}: {why}") from why
            print(f"ok {time.monotonic() - since:6.1f} s  {sentence}", flush=True)
    print(f"compose: {len(CHECKS)} checks passed in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Hopeless as why:
        sys.exit(f"compose: FAILED {why}")
