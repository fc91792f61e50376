#!/usr/bin/env python3
"""A controller of one's own: joins two nodes into a network, carrying their sealed signals over a pipe.

usage: controller.py ANN/tincan.sock BOB/tincan.sock   (each made by `ipop tincan --state ANN`)

Each node gets a child of this program, which knows its tincan by the link API (docs/contract.json) and the other child by a
pipe. The pipe could be anything that brings bytes from one to the other: mail, a chat, a file, a person with a USB stick.
"""
import base64, hashlib, json, os, select, socket, sys

NETWORK = base64.b32encode(hashlib.sha256(b"an example network").digest()).decode().lower().rstrip("=")


class Lines:
    """One JSON object a line, from a file descriptor."""

    def __init__(self, fd):
        self.fd, self.rest = fd, b""

    def next(self):
        while b"\n" not in self.rest:
            self.rest += os.read(self.fd, 65536) or sys.exit("the other side hung up")
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)


class Tincan:
    """A connection to tincan by its link API."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines, self.events, self.id = Lines(self.socket.fileno()), [], 0

    def call(self, method, **params):
        self.id += 1
        request = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while (message := self.lines.next()).get("id") != self.id:
            self.events.append(message["params"])
        if "error" in message:
            sys.exit(f"{method}: {message['error']['message']}")
        return message["result"]


def node(path, address, heard, outbox):
    """Joins one node to the other, who writes what is `heard` and reads `outbox`."""
    tincan = Tincan(path)
    say = lambda what: os.write(outbox, json.dumps(what).encode() + b"\n")
    tincan.call("events.subscribe")
    made = tincan.call("network.create", network=NETWORK, kind="ip", addresses=[f"{address}/24"])
    say({"node": made["node"], "address": address})
    other = heard.next()
    tincan.call("peer.set", network=NETWORK, node=other["node"], addresses=[other["address"]])
    say("ready")
    heard.next()
    if made["node"] < other["node"]:
        tincan.call("link.open", network=NETWORK, node=other["node"])
    while True:
        for event in tincan.events:
            if event["kind"] == "signal_out":
                say({"blob": event["blob"]})
            elif event["kind"] == "link_up":
                print(f"{address} reaches {other['address']}: {event['path']['kind']} {event['path']['remote']}", flush=True)
        tincan.events.clear()
        buffered = [lines.fd for lines in (heard, tincan.lines) if b"\n" in lines.rest]
        ready = buffered or select.select([heard.fd, tincan.lines.fd], [], [])[0]
        if heard.fd in ready:
            tincan.call("signal.deliver", network=NETWORK, blob=heard.next()["blob"])
        if tincan.lines.fd in ready:
            tincan.events.append(tincan.lines.next()["params"])


if len(sys.argv) != 3:
    sys.exit(__doc__)
(to_ann, from_bob), (to_bob, from_ann) = os.pipe(), os.pipe()
ann, bob = (sys.argv[1], "10.99.0.1", to_ann, from_ann), (sys.argv[2], "10.99.0.2", to_bob, from_bob)
own, other = (ann, bob) if os.fork() == 0 else (bob, ann)
os.close(other[2]), os.close(other[3])  # else neither would notice the other's end
node(own[0], own[1], Lines(own[2]), own[3])
