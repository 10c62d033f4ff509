// The port that has the image (MACHINE_SOURCE; sim/bench/source_pins.py), of a bandwidth.
//
// Options behind the arguments of machine_main.cpp, each NAME=VALUE: source: file with the image; source_rate: beats that
// it gives in 65,536 cycles; source_latency: cycles from a request to its response.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "Vmachine.h"
#include "machine_probes.h"

#ifdef MACHINE_SOURCE
class Source {
    static constexpr uint64_t BEAT = 65536;

  public:
    Source(int argc, char** argv, std::vector<uint8_t> image)
        : image_(std::move(image)),
          rate_(number_option(argc, argv, "source_rate")),
          latency_(number_option(argc, argv, "source_latency")) {}

    // What the machine sees in this cycle.
    void offer(Vmachine& top, uint64_t cycle) {
        // No more than a beat is saved up while nothing is asked.
        credit_ = std::min(credit_ + rate_, 2 * BEAT - 1);
        top.i_source_ready = credit_ >= BEAT;
        top.i_source_valid = !answers_.empty() && answers_.front().due <= cycle;
        if (!top.i_source_valid) return;
        std::memset(&top.i_source_data, 0, sizeof(top.i_source_data));
        const uint64_t begin = answers_.front().address * sizeof(top.i_source_data);
        if (begin < image_.size())
            std::memcpy(&top.i_source_data, &image_[begin], std::min(sizeof(top.i_source_data), image_.size() - begin));
        answers_.pop_front();
    }

    // What it asks for in this cycle.
    void take(const Vmachine& top, uint64_t cycle) {
        if (!top.o_source_valid || !top.i_source_ready) return;
        credit_ -= BEAT;
        ++reads_;
        answers_.push_back({cycle + latency_, top.o_source_address});
    }

    uint64_t reads() const { return reads_; }

  private:
    struct Answer {
        uint64_t due, address;
    };
    std::vector<uint8_t> image_;
    uint64_t rate_, latency_, credit_ = 0, reads_ = 0;
    std::deque<Answer> answers_;
};
#else
struct Source {
    void offer(Vmachine&, uint64_t) {}
    void take(const Vmachine&, uint64_t) {}
    uint64_t reads() const { return 0; }
};
#endif
