// Launcher of count.cuh.
#include "count.cuh"

#include <cstdint>

#include "../dispatch.h"
#include "../prune.h"
#include "launch.h"

namespace autoarch {
namespace cuda {

void count_nonzero(const void* data, std::int64_t n, Dtype dtype, std::uint64_t* count, Where where) {
  static_assert(sizeof(std::uint64_t) == sizeof(unsigned long long), "atomicAdd takes unsigned long long");
  check_array(data, n);
  if (count == nullptr) throw std::invalid_argument("Expected `count` to point at 8 bytes on the device, got null.");
  const Stream stream(where, "count_nonzero");
  const auto result = reinterpret_cast<unsigned long long*>(count);
  stream.clear(result, sizeof *result);
  if (n == 0) return;
  const unsigned blocks = stream.blocks_for((n - 1) / tuning::threads + 1);
  with_bits(dtype, [&](auto bits) {
    using Storage = decltype(bits);
    stream.launch(blocks, count_nonzero_kernel<Storage>, static_cast<const Storage*>(data), n, result);
  });
}

}  // namespace cuda
}  // namespace autoarch
