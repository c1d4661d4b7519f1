// Constants of the device code that trade speed for nothing else: every value gives the same answers. None has been
// measured on a GPU yet; what is said is why it was chosen. A test may bring its own (tests/emulation/tuning.h).
#pragma once

#if defined(AUTOARCH_CUDA_TUNING)
#include AUTOARCH_CUDA_TUNING
#else

#include <cstdint>

namespace autoarch {
namespace cuda {
namespace tuning {

// A block, the 16-byte loads that each of its threads has under way, and the elements that it takes at once. Four loads
// of 1,024 threads are 64 KB in flight on a multiprocessor; bandwidth times latency on an H200 is some 25 KB.
constexpr int threads = 256;
constexpr int packs_in_flight = 4;
constexpr std::int64_t chunk = 8192;
constexpr int blocks_per_processor = 8;
constexpr int resident_blocks = 4;  // for which registers must do: 64 a thread

// Radix selection: 2,048 bins, 8 KB of shared memory for each of two ranks; 31 bits in 3 passes.
constexpr int digit_bits = 11;

// Keys that a warp gathers before it writes them, in packs of 16 bytes: 1 KB a warp, one atomic addition for some 200
// keys of float32.
constexpr int stage_packs = 64;

// Selection: up to so many elements every key is collected, and no sample is taken.
constexpr std::int64_t collect_all = 1 << 20;

// The sample: runs of neighbours (they share a 32-byte sector) in random places. A run counts as one observation, for
// neighbours resemble each other; the bracket reaches so many standard deviations of the rank to either side. With the
// largest sample 0.7 % of the elements lie in it, a third of what the scratch memory has room for.
constexpr std::int64_t sample_run = 2;
constexpr std::int64_t sample_keys_max = 1 << 20;
constexpr std::int64_t sample_share = 16;  // at most one key in so many
constexpr double bracket_deviations = 5;

// What select_scratch may be: this share of the weights' bytes, or so many bytes.
constexpr std::int64_t scratch_share = 50;
constexpr std::int64_t scratch_bytes = 8 << 20;

}  // namespace tuning
}  // namespace cuda
}  // namespace autoarch

#endif

namespace autoarch {
namespace cuda {
static_assert(tuning::threads % 32 == 0, "warps are whole");
static_assert(tuning::chunk % (tuning::threads * tuning::packs_in_flight * 8) == 0, "a chunk is whole rounds of packs");
static_assert(tuning::chunk % 64 == 0, "a chunk is whole words of a mask");
static_assert(tuning::stage_packs > 32, "a pack of each lane fits behind what is there");
static_assert(tuning::sample_run <= 2, "a run is no more than a pack");
}  // namespace cuda
}  // namespace autoarch
