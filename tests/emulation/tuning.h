// Stands in for csrc/cuda/tuning.h: everything small, so that a few thousand elements are many chunks, blocks, digits
// and flushes. What a case wants otherwise is a variable.
#pragma once

#include <cstdint>

namespace autoarch {
namespace cuda {
namespace tuning {

constexpr int threads = 64;
constexpr int packs_in_flight = 2;
constexpr std::int64_t chunk = 1024;
constexpr int blocks_per_processor = 2;
constexpr int resident_blocks = 1;
constexpr int digit_bits = 8;
constexpr int stage_packs = 34;
constexpr std::int64_t sample_run = 2;

inline std::int64_t collect_all = 512;
inline std::int64_t sample_keys_max = 1024;
inline std::int64_t sample_share = 2;
inline double bracket_deviations = 3;
inline std::int64_t scratch_share = 50;
inline std::int64_t scratch_bytes = 64 << 10;

}  // namespace tuning
}  // namespace cuda
}  // namespace autoarch
