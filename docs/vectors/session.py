#!/usr/bin/env python3
"""IPOP's key schedule and records, written a second time, with nothing but Python's standard library.

Prints the records that the test `vector` in crates/tincan/src/session/tests.rs expects:
    python3 docs/vectors/session.py
It is slow and not in constant time: for checking vectors, for nothing else.
"""
import hashlib
import hmac
import struct

EXPORTED = b"\x11" * 32  # the TLS exporter's value, label "ipop frames v1"
SECRET = b"\x22" * 32  # the link secret of the sealed offer
RECEIVER, LANE = 0x010203, 5


def hkdf(salt, secret, info, length=32):
    """RFC 5869 with SHA-256."""
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    out = block = b""
    for n in range(1, -(-length // 32) + 1):
        block = hmac.new(prk, block + info + bytes([n]), hashlib.sha256).digest()
        out += block
    return out[:length]


def directions():
    """Roots of the client's and of the server's direction."""
    root = hkdf(SECRET, EXPORTED, b"ipop session root v1")
    return [hkdf(b"ipop direction v1", root, d) for d in (b"client to server", b"server to client")]


def record(aead, name, root, epoch, counter, payload):
    for _ in range(epoch):
        root = hkdf(b"ipop epoch v1", root, b"next")
    material = hkdf(b"ipop record key v1", root, name, 44)
    key, iv = material[:32], material[32:]
    header = bytes([0x80 | LANE]) + RECEIVER.to_bytes(3, "big") + struct.pack(">H", epoch) + counter.to_bytes(6, "big")
    place = struct.pack(">HB", epoch, LANE) + bytes(3) + counter.to_bytes(6, "big")
    nonce = bytes(a ^ b for a, b in zip(iv, place))
    return header + aead(key, nonce, payload, header)


# AES-256-GCM: FIPS 197 and NIST SP 800-38D.

def xtime(a):
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def gmul(a, b):
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a, b = xtime(a), b >> 1
    return out


def sbox():
    box = []
    for value in range(256):
        inverse = next((x for x in range(256) if gmul(value, x) == 1), 0)
        turned = inverse
        for _ in range(4):
            inverse = (inverse << 1 | inverse >> 7) & 0xFF
            turned ^= inverse
        box.append(turned ^ 0x63)
    return box


SBOX = sbox()


def aes256(key):
    words = [list(key[i:i + 4]) for i in range(0, 32, 4)]
    rcon = 1
    while len(words) < 60:
        word = list(words[-1])
        if len(words) % 8 == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = xtime(rcon)
        elif len(words) % 8 == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[-8], word)])
    rounds = [sum(words[i:i + 4], []) for i in range(0, 60, 4)]

    def encrypt(block):
        state = [a ^ b for a, b in zip(block, rounds[0])]
        for n in range(1, 15):
            state = [SBOX[b] for b in state]
            state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
            if n < 14:
                columns = [state[i:i + 4] for i in range(0, 16, 4)]
                state = [gmul(2, c[i]) ^ gmul(3, c[(i + 1) % 4]) ^ c[(i + 2) % 4] ^ c[(i + 3) % 4]
                         for c in columns for i in range(4)]
            state = [a ^ b for a, b in zip(state, rounds[n])]
        return bytes(state)

    return encrypt


def pad16(data):
    return data + bytes(-len(data) % 16)


def aes_256_gcm(key, nonce, payload, aad):
    encrypt = aes256(key)
    h = int.from_bytes(encrypt(bytes(16)), "big")

    def times_h(x):
        out, v = 0, h
        for bit in range(127, -1, -1):
            out ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
        return out

    stream = b"".join(encrypt(nonce + struct.pack(">I", n)) for n in range(2, 3 + len(payload) // 16))
    sealed = bytes(a ^ b for a, b in zip(payload, stream))
    hashed, y = pad16(aad) + pad16(sealed) + struct.pack(">QQ", 8 * len(aad), 8 * len(sealed)), 0
    for i in range(0, len(hashed), 16):
        y = times_h(y ^ int.from_bytes(hashed[i:i + 16], "big"))
    mask = int.from_bytes(encrypt(nonce + struct.pack(">I", 1)), "big")
    return sealed + (y ^ mask).to_bytes(16, "big")


# ChaCha20-Poly1305: RFC 8439.

def chacha20(key, counter, nonce):
    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    s = list(start)

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] ^= s[x]
            s[z] = (s[z] << turn | s[z] >> 32 - turn) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(s, start)))


def chacha20_poly1305(key, nonce, payload, aad):
    stream = b"".join(chacha20(key, n, nonce) for n in range(1, 2 + len(payload) // 64))
    sealed = bytes(a ^ b for a, b in zip(payload, stream))
    once = chacha20(key, 0, nonce)
    r = int.from_bytes(once[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    hashed, acc = pad16(aad) + pad16(sealed) + struct.pack("<QQ", len(aad), len(sealed)), 0
    for i in range(0, len(hashed), 16):
        acc = (acc + int.from_bytes(hashed[i:i + 16] + b"\x01", "little")) * r % (2**130 - 5)
    tag = (acc + int.from_bytes(once[16:32], "little")) & (2**128 - 1)
    return sealed + tag.to_bytes(16, "little")


if __name__ == "__main__":
    client, server = directions()
    for aead, name, root in (
        (aes_256_gcm, b"aes-256-gcm", client),
        (chacha20_poly1305, b"chacha20-poly1305", server),
    ):
        print(name.decode())
        for epoch, counter, payload in ((0, 0, b"first"), (0, 1, b"second"), (1, 0, b"next epoch")):
            print("   ", record(aead, name, root, epoch, counter, payload).hex())
