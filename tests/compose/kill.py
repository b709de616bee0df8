"""Kills consumers under load, and audits.

What counts as a failure: a committed order that is neither shipped nor parked with a reason; an
order shipped twice; a shipment without an order; an unresolved overdue row when all is quiet.
What does not: an order that could not be placed (its caller was told), a resend of something that
had been processed.
"""

import argparse
import collections
import random
import subprocess
import sys
import threading
import time

import grpc

from stack import IMAGE_HELP, Failure, Hopeless, Stack, eventually, expect


def main():
    args = arguments()
    chance = random.Random(args.seed)
    print(f"seed {args.seed}: {args.consumers} consumers, {args.rate} orders/s for {args.seconds} s", flush=True)
    with Stack(args.image) as stack:
        stack.build_and_up("--scale", f"logistics={args.consumers}")
        slow_down(stack)
        orders = Orders(stack, args.rate)
        kills = kill_consumers(stack, chance, args.seconds)
        orders.stop()
        print(f"placed {len(orders.placed)}, refused {orders.refused}, killed {kills}", flush=True)
        expect(kills, "nothing was killed")
        audit(stack, orders.placed)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200, help="orders per second")
    parser.add_argument("--consumers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--image", help=IMAGE_HELP)
    return parser.parse_args()


class Orders:
    """Places orders at a steady rate, from as many callers as that takes."""

    CALLERS = 8

    def __init__(self, stack, rate):
        self.grpc, self.interval = stack.orders(), self.CALLERS / rate
        first = self.grpc.place_order("before the first kill")  # reflection is asked once, here
        self.placed, self.refused = {first["order_id"]}, 0
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.place) for _ in range(self.CALLERS)]
        for thread in self.threads:
            thread.start()

    def place(self):
        while not self.stopped.wait(self.interval):
            try:
                placed = {self.grpc.place_order("under fire")["order_id"]}
            except grpc.RpcError:
                placed = set()
            with self.lock:
                self.placed |= placed
                self.refused += not placed

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def slow_down(stack):
    """A shipment takes a while, so that a kill meets some in the making."""
    stack.sql("logistics", "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                           "$$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$")
    stack.sql("logistics", "CREATE TRIGGER slow BEFORE INSERT ON shipments FOR EACH ROW EXECUTE FUNCTION slow()")


def kill_consumers(stack, chance, seconds):
    """SIGKILLs one or more consumers at random moments, and starts them again a moment later."""
    ids = [container["Id"] for container in stack.containers("logistics")]
    deadline, kills = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        time.sleep(chance.uniform(0.2, 2.0))
        victims = chance.sample(ids, chance.randint(1, len(ids)))
        subprocess.run(["docker", "kill", *victims], check=True, stdout=subprocess.DEVNULL)
        kills += len(victims)
        time.sleep(chance.uniform(0.0, 1.0))
        subprocess.run(["docker", "start", *victims], check=True, stdout=subprocess.DEVNULL)
    return kills


def audit(stack, placed):
    def resolved():
        ordered = dict(stack.sql("orders", "SELECT order_id, message_id FROM orders"))
        shipped = collections.Counter(row[0] for row in stack.sql("logistics", "SELECT order_id FROM shipments"))
        doubled = [order for order, count in shipped.items() if count > 1]
        if doubled or set(shipped) - set(ordered):
            raise Hopeless(f"doubled: {doubled[:5]} ({len(doubled)}); without an order: {len(set(shipped) - set(ordered))}")
        parked = {row[0] for row in stack.sql("callback", "SELECT message_id FROM overdue WHERE state = 'parked' AND reason <> ''")}
        missing = [order for order, message in ordered.items() if order not in shipped and message not in parked]
        expect(not missing, f"{len(missing)} of {len(ordered)} orders neither shipped nor parked: {missing[:5]}")
        unresolved = stack.sql("callback", "SELECT state, count(*) FROM overdue WHERE state IN ('waiting', 'asking') GROUP BY 1")
        expect(not unresolved, f"unresolved: {unresolved}")
        return ordered, shipped, parked

    ordered, shipped, parked = eventually("every order shipped or parked, nothing unresolved", 120, resolved)
    expect(placed <= set(ordered), f"accepted, and not in the database: {placed - set(ordered)}")
    resends = int(stack.sql("callback", "SELECT coalesce(sum(resends), 0) FROM overdue")[0][0])
    duplicates = int(stack.sql("logistics", "SELECT coalesce(sum(duplicates), 0) FROM countersign.inbox")[0][0])
    # The broker counts its figures every five seconds.
    redelivered = eventually("the kills met messages in the consumers' hands", 30,
                             lambda: stack.redeliveries("logistics.orders"))
    print(f"ordered {len(ordered)}, shipped {len(shipped)}, doubled 0, parked {len(parked)}, lost 0; "
          f"resends {resends}, redelivered {redelivered}, duplicates suppressed {duplicates}")
    expect(2 * len(shipped) > len(ordered), "most are shipped, not parked")


if __name__ == "__main__":
    try:
        main()
    except (Failure, Hopeless) as why:
        sys.exit(f"kill: FAILED {why}")
