// Masks on the CPU: zeros where a bit is 0, and how many bits are 1.
#include <stdexcept>
#include <vector>

#include "../dispatch.h"
#include "../prune.h"
#include "clones.h"
#include "loops.h"
#include "parallel.h"
#include "spans.h"

namespace autoarch {
namespace {

AUTOARCH_CLONES std::int64_t ones_in(const std::uint64_t* words, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint64_t x = words[i];  // additions in parallel inside the word; popcnt is not in the baseline of x86-64
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    count += static_cast<std::int64_t>(x * 0x0101010101010101u >> 56);
  }
  return count;
}

}  // namespace

std::int64_t count_bits(Bits bits, std::int64_t words) {
  check_array(bits, words);
  return ones_in(bits, words);
}

void apply_masks(const Arrays& arrays, const std::vector<Bits>& masks, Dtype dtype, int threads) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  if (masks.size() != arrays.size()) throw std::invalid_argument("Expected one mask for each array.");
  const Blocks blocks(arrays);
  threads = useful_threads(blocks.elements(), threads);
  with_bits(dtype, [&](auto storage) {
    using Storage = decltype(storage);
    write_spans<Storage>(arrays, blocks, threads, [&](std::size_t a, std::int64_t start, Storage* x, std::int64_t n) {
      loops<Storage>().apply(x, n, masks[a] + start / block);
    });
  });
}

}  // namespace autoarch
