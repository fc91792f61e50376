#!/usr/bin/env python3
"""A controller of one's own: joins two nodes into a network, carrying their sealed signals over a pipe.

usage: controller.py ANN/tincan.sock BOB/tincan.sock   (each made by `ipop tincan --state ANN`)

Each node gets a child of this program, which knows its tincan by the link API (docs/contract.json) and the other child by a
pipe. The pipe could be anything that brings bytes from one to the other: mail, a chat, a file, a person with a USB stick.
"""
import base64, hashlib, json, os, selectors, socket, sys

NETWORK = base64.b32encode(hashlib.sha256(b"an example network").digest()).decode().lower().rstrip("=")


class Tincan:
    """A connection to tincan: one JSON object a line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines, self.events, self.id = self.socket.makefile("r"), [], 0

    def call(self, method, **params):
        self.id += 1
        request = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self.read()
            if message.get("id") == self.id:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message["params"])

    def read(self):
        line = self.lines.readline()
        return json.loads(line) if line else sys.exit("tincan hung up")


def node(path, address, inbox, outbox):
    """Joins one node to the other, who reads `outbox` and writes `inbox`."""
    tincan = Tincan(path)
    say = lambda what: os.write(outbox, json.dumps(what).encode() + b"\n")
    tincan.call("events.subscribe")
    made = tincan.call("network.create", network=NETWORK, kind="ip", addresses=[f"{address}/24"])
    say({"node": made["node"], "address": address})
    heard = os.fdopen(inbox)
    other = json.loads(heard.readline())
    tincan.call("peer.set", network=NETWORK, node=other["node"], addresses=[other["address"]])
    say("ready")
    heard.readline()
    if made["node"] < other["node"]:
        tincan.call("link.open", network=NETWORK, node=other["node"])
    ready = selectors.DefaultSelector()
    ready.register(heard, selectors.EVENT_READ)
    ready.register(tincan.socket, selectors.EVENT_READ)
    while True:
        while tincan.events:
            event = tincan.events.pop(0)
            if event["kind"] == "signal_out":
                say({"blob": event["blob"]})
            elif event["kind"] == "link_up":
                print(f"{address} reaches {other['address']}: {event['path']['kind']} {event['path']['remote']}", flush=True)
        for key, _ in ready.select():
            if key.fileobj is heard:
                line = heard.readline() or sys.exit("the other side hung up")
                tincan.call("signal.deliver", network=NETWORK, blob=json.loads(line)["blob"])
            else:
                tincan.events.append(tincan.read()["params"])


if len(sys.argv) != 3:
    sys.exit(__doc__)
(to_ann, from_bob), (to_bob, from_ann) = os.pipe(), os.pipe()
if os.fork() == 0:
    node(sys.argv[1], "10.99.0.1", to_ann, from_ann)
else:
    node(sys.argv[2], "10.99.0.2", to_bob, from_bob)
