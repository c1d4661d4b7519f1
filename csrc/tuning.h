// Constants that trade speed for nothing else: every value gives the same answers. Each says what it was measured on.
#pragma once

#include <cstdint>

namespace autoarch {
namespace tuning {

// Elements counted before the 64-bit total is touched. Below 65,536 a 16-bit counter cannot overflow, which is why it
// may not grow.
constexpr std::int64_t count_block = 32768;
static_assert(count_block < 65536, "count_nonzero counts a block in 16 bits");

// CPU: what makes another thread worth its start (a plain one takes 80 to 200 µs until it runs, one of OpenMP a few; so many fp32 are masked in 40 µs,
// selected from in 400), and what is copied of a strided tensor at once (stays in the second-level cache with what it
// is copied from).
constexpr std::int64_t thread_elements = 1 << 17;
constexpr std::int64_t gathered_elements = 4096;
static_assert(gathered_elements % 64 == 0, "a copy is whole blocks of a mask");
// More is copied where that makes whole rows, which are then cleared without a copy back.
constexpr std::int64_t gathered_rows = 1 << 15;

// Blocks of 64 that a thread takes at once of what it writes through: 256 KiB of fp32, a part of a second-level cache.
// Chosen, not measured against others.
constexpr std::int64_t taken_blocks = 1024;

// n of m: rows that are longer in all are decided on in strips of `gathered_elements`, so that scratch stays small.
constexpr std::int64_t decided_elements = 1 << 18;

// A waiting thread looks so often (about 10 µs) before it offers its core at each look, and so often before it sleeps.
constexpr int looks_before_yield = 4000;
constexpr int looks_before_sleep = 8000;

// Selection: up to so many elements all keys are collected and no sample is taken.
constexpr std::int64_t collect_all = 1 << 17;

// The sample: runs of neighbours in random places, one in some 2,048 elements at most, since a page is looked up for
// each. The bracket reaches so many standard deviations of a sampled rank to either side: about 1 % of the elements lie
// in it, and are collected. Where neighbours resemble each other (rows of a weight have scales of their own) a run is
// worth less than its length and the bracket may miss; then more and shorter runs are tried before the slow way.
struct Sampling {
  std::int64_t runs_min, runs_max, run;
};
constexpr Sampling samplings[] = {{1 << 13, 1 << 15, 8}, {1 << 16, 1 << 17, 2}};
// So many runs are asked for before the first is read: a page table and a memory away, each takes some 200 ns alone.
constexpr std::int64_t runs_asked = 64;
constexpr double bracket_deviations = 5;
constexpr double collected_share = 0.015;

// A loop over memory reads so many pages side by side: against one after the other, a read of 1e8 fp32 took 0.90 of the
// time and a read-and-write 0.87, on 2 threads of a Xeon (4 places of 4 to 64 KiB alike; 2 and 8 gained less).
// With the next batch prefetched, a selection from 1e8 fp32 took 0.80 of the time on 2 threads of an EPYC with AVX2.
constexpr std::int64_t streams = 4;
constexpr std::int64_t stream_bytes = 4096;

// Keys that a thread takes of the common buffer at once, in batches of a loop; the last is a margin.
constexpr std::int64_t piece_batches = 5;

}  // namespace tuning
}  // namespace autoarch
