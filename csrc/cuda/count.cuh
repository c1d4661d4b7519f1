// count_nonzero on the device: each thread counts along a grid-wide stride, a warp adds up by shuffles, and its first
// lane adds to the result. Integer additions commute, so the order in which warps arrive cannot change the answer.
#pragma once

#include <cstdint>

#include "../ordered_bits.h"

namespace autoarch {
namespace cuda {

template <typename Bits>
__global__ void count_nonzero_kernel(const Bits* x,               // n elements
                                     std::int64_t n,              // >= 0
                                     unsigned long long* result)  // 1 element, zero before the launch
{
  // blockDim.x is a whole number of warps and every thread reaches the shuffles, so the mask is the whole warp.
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  unsigned long long count = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    count += magnitude_key(x[i]) != 0;
  for (int offset = 16; offset > 0; offset /= 2) count += __shfl_down_sync(0xffffffffu, count, offset);
  if (threadIdx.x % 32 == 0 && count != 0) atomicAdd(result, count);
}

}  // namespace cuda
}  // namespace autoarch
