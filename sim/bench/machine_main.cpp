// Runs a verilated machine on a memory that lives here: load an image, run to STOP or an error, write memory back.
//
// Arguments: image, result, memory bytes, writable, most cycles, latency of memory, refusals of 256, seed,
// address from which memory answers with errors, first cycle in which memory stalls and number of such
// cycles (none if left out). One line of JSON on standard output. Behind them the options of machine_probes.h and
// machine_source.h. It ends with status 5 when the process that started it has ended.
//
// With MACHINE_SDRAM the simulation has an SDRAM controller and the model of a part (sim/bench/sdram_pins.py), of which
// only the cells live here; memory is those cells then, and what follows `most cycles` is not looked at.
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vmachine.h"
#include "machine_probes.h"
#include "machine_source.h"
#include "verilated.h"

namespace {

#ifndef MACHINE_SDRAM
struct Answer {
    uint64_t due;
    uint64_t address;
    bool error;
};
#endif

uint64_t number(const char* text) { return std::strtoull(text, nullptr, 0); }

std::vector<uint8_t> load(const char* name, uint64_t size) {
    std::vector<uint8_t> bytes(size, 0);
    FILE* file = std::fopen(name, "rb");
    if (file == nullptr) std::exit(3);
    if (std::fread(bytes.data(), 1, size, file) == 0) std::exit(3);
    std::fclose(file);
    return bytes;
}

}  // namespace

double sc_time_stamp() { return 0; }

int main(int argc, char** argv) {
    const pid_t starter = getppid();
    const uint64_t size = number(argv[3]), limit = number(argv[5]);
    std::vector<uint8_t> memory = load(argv[1], size);
    auto context = std::make_unique<VerilatedContext>();
    auto probes = std::make_unique<Probes>(argc, argv, *context);
    auto top = std::make_unique<Vmachine>(context.get());
    probes->attach(*top);
#ifdef MACHINE_SOURCE
    Source source(argc, argv, load(option(argc, argv, "source"), number(argv[4])));
#else
    Source source;
#endif
    uint64_t cycles = 0, reads = 0, writes = 0, late_writes = 0, stopped = 0, violations = 0;
    bool waiting = false;
#ifndef MACHINE_SDRAM
    const uint64_t latency = number(argv[6]), refused = number(argv[7]), broken = number(argv[9]);
    const uint64_t stall = argc > 11 ? number(argv[10]) : 0, stall_cycles = argc > 11 ? number(argv[11]) : 0;
    uint64_t random = number(argv[8]) * 2 + 1;
    constexpr size_t beat = sizeof(top->o_data);
    std::deque<Answer> answers;
    bool failed = false;
#endif
    top->clk = 0;
    top->rst = 1;
    top->writable = number(argv[4]);
    top->i_start = 0;
    for (int reset = 0; reset < 4; ++reset) {
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
    }
    top->rst = 0;
    top->i_start = 1;
    const auto begin = std::chrono::steady_clock::now();
    auto spoken = begin;
    auto seconds = [&](auto from) {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    };
#ifdef MACHINE_SDRAM
    const auto step = [&] {
        source.offer(*top, cycles);
        top->clk = 0;
        top->eval();
        probes->settled(*top, cycles);
        source.take(*top, cycles);
        const uint64_t cell = uint64_t{top->o_cell} * 2;
        if (top->o_cell_write) std::memcpy(&memory[cell], &top->o_cell_word, 2);
        uint16_t word;
        std::memcpy(&word, &memory[cell], 2);
        if (top->o_valid) ++(top->o_write ? writes : reads);
        top->clk = 1;
        top->eval();
        probes->risen(cycles);
        top->i_cell_data = word;
        violations |= top->o_violations;
    };
#endif
    while (cycles < limit && !top->o_done && (stopped == 0 || cycles < stopped + 64)) {
#ifdef MACHINE_SDRAM
        step();
#else
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        const bool stalled = cycles >= stall && cycles - stall < stall_cycles;
        top->i_ready = !stalled && ((random >> 33) & 255) >= refused;
        top->i_valid = !stalled && !answers.empty() && answers.front().due <= cycles;
        if (top->i_valid) {
            const Answer answer = answers.front();
            answers.pop_front();
            top->i_error = answer.error;
            if (!answer.error) std::memcpy(&top->i_data, &memory[answer.address], beat);
        }
        top->i_failed = failed;
        source.offer(*top, cycles);
        top->clk = 0;
        top->eval();
        probes->settled(*top, cycles);
        source.take(*top, cycles);
        // What is asked comes from registers, so it is the same before and after the inputs of this cycle.
        if (top->o_valid && top->i_ready) {
            const uint64_t address = uint64_t{top->o_address} * beat;
            const bool error = address + beat > size || address >= broken;
            if (top->o_write) {
                ++writes;
                if (stopped != 0 && !waiting) ++late_writes;
                if (error) failed = true;
                else std::memcpy(&memory[address], &top->o_data, beat);
            } else {
                ++reads;
                answers.push_back({cycles + latency, address, error});
            }
            waiting = false;
        }
        top->clk = 1;
        top->eval();
        probes->risen(cycles);
#endif
        top->i_start = 0;
        ++cycles;
        if (stopped == 0 && top->o_error != 0) {
            stopped = cycles;
            // A request that memory has been offered stays: it was made before the error.
            waiting = top->o_valid;
        }
        if ((cycles & 0xfff) == 0 && getppid() != starter) return 5;  // nobody waits for the result any more
        if ((cycles & 0xfff) == 0 && seconds(spoken) > 10) {
            spoken = std::chrono::steady_clock::now();
            std::fprintf(stderr, "machine: %" PRIu64 " cycles, %.0f s\n", cycles, seconds(begin));
        }
    }
    const double took = seconds(begin);
    const bool probed = probes->finish();
#ifdef MACHINE_SDRAM
    // The controller has taken the last writes, but they may not be in the part yet.
    for (int drain = 0; drain < 1024; ++drain) step();
#endif
    std::printf(
        "{\"cycles\": %" PRIu64 ", \"done\": %d, \"error\": %d, \"where\": %" PRIu64 ", \"reads\": %" PRIu64
        ", \"source_reads\": %" PRIu64 ", \"writes\": %" PRIu64 ", \"late_writes\": %" PRIu64 ", \"violations\": %" PRIu64
        ", \"seconds\": %.3f}\n",
        stopped != 0 ? stopped : cycles, int(top->o_done), int(top->o_error), uint64_t{top->o_where}, reads,
        source.reads(), writes, late_writes, violations, took);
    FILE* file = std::fopen(argv[2], "wb");
    if (file == nullptr || std::fwrite(memory.data(), 1, size, file) != size) return 3;
    std::fclose(file);
    top->final();
    return probed ? 0 : 4;
}
