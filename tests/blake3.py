"""BLAKE3's keyed hash for inputs of up to 1,024 bytes (one chunk), after section 2 of its paper.

Stands in for the package of the same name where that is not installed, so that the tagged client of
docs/protocol.md can be run anywhere, and is a second opinion on its test vectors:

    python3 tests/blake3.py SECRET_HEX DATA_HEX     prints the tag
"""
import struct, sys

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, ROOT, KEYED_HASH = 1, 2, 8, 16
MASK = 0xFFFFFFFF


def rotate(word, by):
    return (word >> by | word << (32 - by)) & MASK


def mix(v, a, b, c, d, x, y):
    v[a] = (v[a] + v[b] + x) & MASK
    v[d] = rotate(v[d] ^ v[a], 16)
    v[c] = (v[c] + v[d]) & MASK
    v[b] = rotate(v[b] ^ v[c], 12)
    v[a] = (v[a] + v[b] + y) & MASK
    v[d] = rotate(v[d] ^ v[a], 8)
    v[c] = (v[c] + v[d]) & MASK
    v[b] = rotate(v[b] ^ v[c], 7)


def compress(chaining, block, length, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = list(chaining) + list(IV[:4]) + [0, 0, length, flags]
    for _ in range(7):
        for column in range(4):
            mix(v, column, column + 4, column + 8, column + 12, m[2 * column], m[2 * column + 1])
        for n, (a, b, c, d) in enumerate([(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]):
            mix(v, a, b, c, d, m[8 + 2 * n], m[9 + 2 * n])
        m = [m[p] for p in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


class blake3:
    def __init__(self, data=b"", key=None):
        assert len(data) <= 1024, "one chunk only"
        assert key is not None and len(key) == 32, "keyed only"
        blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
        words = struct.unpack("<8I", key)
        for n, block in enumerate(blocks):
            flags = KEYED_HASH
            flags |= CHUNK_START if n == 0 else 0
            flags |= CHUNK_END | ROOT if n == len(blocks) - 1 else 0
            words = compress(words, block, len(block), flags)
        self._digest = struct.pack("<8I", *words)

    def digest(self, length=32):
        return self._digest[:length]


if __name__ == "__main__":
    secret, data = map(bytes.fromhex, sys.argv[1:])
    print(blake3(data, key=secret).digest(16).hex())
