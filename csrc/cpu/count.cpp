// count_nonzero on the CPU: one read of the data, nothing else. Counts in the width of the elements inside a block,
// so that a vector register holds as many counters as elements, and adds the blocks up in 64 bits.
#include <algorithm>
#include <cstdint>

#include "../dispatch.h"
#include "../ordered_bits.h"
#include "../prune.h"
#include "../tuning.h"
#include "clones.h"

namespace autoarch {
namespace {

// Not a template in itself: gcc clones functions, and a clone must be a function of its own to be vectorised.
#define AUTOARCH_COUNT_BLOCK(Bits)                                                                      \
  AUTOARCH_CLONES Bits count_block(const Bits* x, std::int64_t n) {                                     \
    Bits count = 0;                                                                                     \
    for (std::int64_t i = 0; i < n; ++i) count = static_cast<Bits>(count + (magnitude_key(x[i]) != 0)); \
    return count;                                                                                       \
  }

AUTOARCH_COUNT_BLOCK(std::uint16_t)
AUTOARCH_COUNT_BLOCK(std::uint32_t)
AUTOARCH_COUNT_BLOCK(std::uint64_t)

template <typename Bits>
std::int64_t count(const Bits* x, std::int64_t n) {
  std::int64_t total = 0;
  for (std::int64_t start = 0; start < n; start += tuning::count_block)
    total += static_cast<std::int64_t>(count_block(x + start, std::min(tuning::count_block, n - start)));
  return total;
}

}  // namespace

std::int64_t count_nonzero(const void* data, std::int64_t n, Dtype dtype) {
  check_array(data, n);
  return with_bits(dtype, [=](auto bits) { return count(static_cast<const decltype(bits)*>(data), n); });
}

}  // namespace autoarch
