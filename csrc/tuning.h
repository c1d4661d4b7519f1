// Constants that trade speed for nothing else: every value gives the same answers. Each says what it was measured on.
#pragma once

#include <cstdint>

namespace autoarch {
namespace tuning {

// Elements counted before the 64-bit total is touched. Below 65,536 a 16-bit counter cannot overflow, which is why it
// may not grow.
constexpr std::int64_t count_block = 32768;
static_assert(count_block < 65536, "count_nonzero counts a block in 16 bits");

// CUDA. Not measured yet: a block of 256 is the usual middle, and the bound keeps the atomic additions of a large
// tensor (one per warp) below 40,000 while it is above what any chip of today runs at once.
constexpr int count_threads = 256;
constexpr std::int64_t count_max_blocks = 4096;
static_assert(count_threads % 32 == 0, "count_nonzero_kernel shuffles whole warps");

}  // namespace tuning
}  // namespace autoarch
