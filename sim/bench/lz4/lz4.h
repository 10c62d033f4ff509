// The two functions of LZ4 that Verilator's FST writer calls, so that a waveform needs no library that many machines
// lack. Blocks are as the LZ4 block format has them: greedy matches, found by the hash of four bytes.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

static inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

// Returns the bytes written to `target`, whose `room` is at least LZ4_compressBound(size).
static inline int LZ4_compress_default(const char* source, char* target, int size, int room) {
    constexpr int HASH_BITS = 13, SHORTEST = 4, LAST_LITERALS = 5, LAST_MATCH = 12, FARTHEST = 65535;
    if (room < LZ4_compressBound(size)) return 0;
    char* out = target;
    const auto extended = [&out](int length) {
        for (; length >= 255; length -= 255) *out++ = char(255);
        *out++ = char(length);
    };
    const auto sequence = [&](int from, int literals, int distance, int length) {
        const int match = distance == 0 ? 0 : length - SHORTEST;
        *out++ = char(std::min(literals, 15) << 4 | std::min(match, 15));
        if (literals >= 15) extended(literals - 15);
        std::memcpy(out, source + from, literals);
        out += literals;
        if (distance == 0) return;
        *out++ = char(distance);
        *out++ = char(distance >> 8);
        if (match >= 15) extended(match - 15);
    };
    std::vector<int> seen(1 << HASH_BITS, -1);
    int done = 0;
    for (int at = 0; at <= size - LAST_MATCH;) {
        uint32_t word;
        std::memcpy(&word, source + at, SHORTEST);
        int& place = seen[word * 2654435761u >> (32 - HASH_BITS)];
        const int before = place;
        place = at;
        if (before < 0 || at - before > FARTHEST || std::memcmp(source + before, source + at, SHORTEST) != 0) {
            ++at;
            continue;
        }
        int length = SHORTEST;
        while (at + length < size - LAST_LITERALS && source[before + length] == source[at + length]) ++length;
        sequence(done, at - done, at - before, length);
        done = at += length;
    }
    sequence(done, size - done, 0, 0);
    return int(out - target);
}
