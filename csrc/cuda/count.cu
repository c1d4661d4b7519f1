// Launcher of count.cuh.
#include <algorithm>
#include <cstdint>

#include "../dispatch.h"
#include "../prune.h"
#include "../tuning.h"
#include "check.h"
#include "count.cuh"

namespace autoarch {
namespace cuda {

void count_nonzero(const void* data, std::int64_t n, Dtype dtype, std::uint64_t* count, int device, void* stream) {
  static_assert(sizeof(std::uint64_t) == sizeof(unsigned long long), "atomicAdd takes unsigned long long");
  check_array(data, n);
  if (count == nullptr) throw std::invalid_argument("Expected `count` to point at 8 bytes on the device, got null.");
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  const auto result = reinterpret_cast<unsigned long long*>(count);
  check(cudaMemsetAsync(result, 0, sizeof *result, on), "count_nonzero: cudaMemsetAsync");
  if (n == 0) return;
  const std::int64_t blocks = (n + tuning::count_threads - 1) / tuning::count_threads;
  const auto grid = static_cast<unsigned>(std::min(blocks, tuning::count_max_blocks));
  with_bits(dtype, [&](auto bits) {
    count_nonzero_kernel<<<grid, tuning::count_threads, 0, on>>>(static_cast<const decltype(bits)*>(data), n, result);
  });
  check(cudaGetLastError(), "count_nonzero: launch");
}

}  // namespace cuda
}  // namespace autoarch
