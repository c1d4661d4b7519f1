// Norms of slices: a warp has a slice, its 32 lanes are those of the contract. The order of the additions is fixed, so
// a slice cannot be shared by more; four loads are under way while a lane adds.
#pragma once

#include <cstdint>

#include "../numeric.h"
#include "packs.cuh"
#include "tuning.h"

namespace autoarch {
namespace cuda {

template <Dtype dtype>
__global__ void group_norms_kernel(const typename Number<dtype>::Storage* data, const __grid_constant__ Layout layout,
                                   std::int64_t outer, std::int64_t length, std::int64_t inner, int p, double* norms) {
  constexpr int ahead = 4;
  const std::int64_t size = outer * inner, warps = static_cast<std::int64_t>(gridDim.x) * (tuning::threads / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (std::int64_t g = static_cast<std::int64_t>(blockIdx.x) * (tuning::threads / 32) + threadIdx.x / 32; g < length;
       g += warps) {
    double sum = 0;
    for (std::int64_t start = lane; start < size; start += 32 * ahead) {
      double terms[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        const std::int64_t e = start + 32 * j;
        if (e >= size) continue;
        const std::int64_t o = quotient(e, inner);
        const std::int64_t i = o * length * inner + g * inner + (e - o * inner);
        terms[j] = static_cast<double>(Number<dtype>::widen(magnitude_key(data[offset_of(layout, i)])));
      }
#pragma unroll
      for (int j = 0; j < ahead; ++j)
        if (start + 32 * j < size) sum = __dadd_rn(sum, p == 1 ? terms[j] : __dmul_rn(terms[j], terms[j]));
    }
    for (int offset = 16; offset > 0; offset /= 2) sum = __dadd_rn(sum, __shfl_down_sync(all_lanes, sum, offset));
    if (lane == 0) norms[g] = p == 1 ? sum : __dsqrt_rn(sum);
  }
}

}  // namespace cuda
}  // namespace autoarch
