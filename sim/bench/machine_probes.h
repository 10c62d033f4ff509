// What a simulation shows besides its result: states of the units (MACHINE_WATCHED) and a waveform (MACHINE_WAVE).
//
// Options behind the arguments of machine_main.cpp, each NAME=VALUE:
//   activity: file for the states; units: how many; window: cycles that are counted together, 0 for as few as leave
//   WINDOWS or less; marks: numbers of commands, ascending, whose first cycles are noted, separated by commas
//   wave: file; from, to: cycles, the last one not included. A cycle is 10 ns there, its first edge rises at its begin.
// The file for states, little-endian: window, count of marks, cycles of the marks (8 bytes each), then for every window
// and unit the cycles in each of four states (4 bytes each).
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "Vmachine.h"
#include "verilated.h"
#ifdef MACHINE_WAVE
#include "verilated_fst_c.h"
#endif

inline const char* option(int argc, char** argv, const char* name) {
    const size_t length = std::strlen(name);
    for (int i = 1; i < argc; ++i)
        if (std::strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
    std::fprintf(stderr, "machine: the option %s is missing\n", name);
    std::exit(2);
}

inline uint64_t number_option(int argc, char** argv, const char* name) {
    return std::strtoull(option(argc, argv, name), nullptr, 0);
}

#ifdef MACHINE_WATCHED
class Activity {
    static constexpr size_t WINDOWS = 2048, STATES = 4;

  public:
    Activity(int argc, char** argv)
        : file_(option(argc, argv, "activity")),
          units_(number_option(argc, argv, "units")),
          window_(number_option(argc, argv, "window")),
          doubling_(window_ == 0),
          current_(units_ * STATES, 0) {
        if (doubling_) window_ = 1;
        const char* text = option(argc, argv, "marks");
        while (*text != 0) {
            char* end;
            marks_.push_back(std::strtoull(text, &end, 0));
            text = *end == ',' ? end + 1 : end;
        }
    }

    void see(uint64_t cycle, uint64_t states, uint64_t command) {
        while (cycles_.size() < marks_.size() && command >= marks_[cycles_.size()]) cycles_.push_back(cycle);
        for (size_t unit = 0; unit < units_; ++unit) ++current_[unit * STATES + (states >> (2 * unit) & 3)];
        if (++filled_ == window_) close();
    }

    bool write() {
        if (filled_ != 0) close();
        FILE* file = std::fopen(file_, "wb");
        if (file == nullptr) return false;
        const uint64_t head[2] = {window_, cycles_.size()};
        bool good = std::fwrite(head, 8, 2, file) == 2;
        good = good && std::fwrite(cycles_.data(), 8, cycles_.size(), file) == cycles_.size();
        good = good && std::fwrite(counts_.data(), 4, counts_.size(), file) == counts_.size();
        return std::fclose(file) == 0 && good;
    }

  private:
    void close() {
        counts_.insert(counts_.end(), current_.begin(), current_.end());
        current_.assign(current_.size(), 0);
        filled_ = 0;
        const size_t size = current_.size();
        if (!doubling_ || counts_.size() < WINDOWS * size) return;
        for (size_t half = 0; half < WINDOWS / 2; ++half)
            for (size_t i = 0; i < size; ++i)
                counts_[half * size + i] = counts_[2 * half * size + i] + counts_[(2 * half + 1) * size + i];
        counts_.resize(WINDOWS / 2 * size);
        window_ *= 2;
    }

    const char* file_;
    size_t units_;
    uint64_t window_, filled_ = 0;
    bool doubling_;
    std::vector<uint64_t> marks_, cycles_;
    std::vector<uint32_t> current_, counts_;
};
#endif

class Probes {
  public:
    Probes(int argc, char** argv, VerilatedContext& context)
#ifdef MACHINE_WATCHED
        : activity_(argc, argv)
#endif
    {
#ifdef MACHINE_WAVE
        file_ = option(argc, argv, "wave");
        from_ = number_option(argc, argv, "from");
        to_ = number_option(argc, argv, "to");
        context.traceEverOn(true);
#endif
        (void)argc, (void)argv, (void)context;
    }

    // Before the first cycle.
    void attach(Vmachine& top) {
#ifdef MACHINE_WAVE
        top.trace(&wave_, 99);
        wave_.set_time_unit("1ns");
        wave_.set_time_resolution("1ns");
        wave_.open(file_);
#endif
        (void)top;
    }

    // The clock is low, and everything has settled for this cycle.
    void settled(const Vmachine& top, uint64_t cycle) {
        if (finished_) return;
#ifdef MACHINE_WATCHED
        activity_.see(cycle, top.o_activity, top.o_command);
#endif
#ifdef MACHINE_WAVE
        if (from_ <= cycle && cycle < to_) wave_.dump(10 * cycle + 5);
#endif
        (void)top, (void)cycle;
    }

    // The clock has risen: this cycle is over.
    void risen(uint64_t cycle) {
        if (finished_) return;
#ifdef MACHINE_WAVE
        if (from_ <= cycle + 1 && cycle < to_) wave_.dump(10 * cycle + 10);
#endif
        (void)cycle;
    }

    // What follows is not looked at. Returns whether everything could be written.
    bool finish() {
        finished_ = true;
#ifdef MACHINE_WAVE
        wave_.close();
#endif
#ifdef MACHINE_WATCHED
        return activity_.write();
#else
        return true;
#endif
    }

  private:
    bool finished_ = false;
#ifdef MACHINE_WATCHED
    Activity activity_;
#endif
#ifdef MACHINE_WAVE
    VerilatedFstC wave_;
    const char* file_ = nullptr;
    uint64_t from_ = 0, to_ = 0;
#endif
};
