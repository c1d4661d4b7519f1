// Masks on the CPU: zeros where a bit is 0, and how many bits are 1.
#include <stdexcept>
#include <vector>

#include "../dispatch.h"
#include "../prune.h"
#include "loops.h"
#include "parallel.h"
#include "spans.h"

namespace autoarch {
std::int64_t count_bits(Bits bits, std::int64_t words) {
  check_array(bits, words);
  return loops<std::uint64_t>().count_ones(bits, words);
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
