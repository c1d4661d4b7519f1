// Operations that look at one element at a time: masks applied, soft thresholds, the group lasso's shrinkage.
#pragma once

#include <cstdint>

#include "../numeric.h"
#include "packs.cuh"
#include "tuning.h"
#include "work_list.h"

namespace autoarch {
namespace cuda {

using MaskList = WorkList<const std::uint32_t*>;

template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    zero_where_unmarked(const __grid_constant__ MaskList list, const __grid_constant__ Layout layout) {
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const auto& item = item_at(list, chunk, &Item<const std::uint32_t*>::first);
    for_each_pack<Bits>(item, layout, chunk, item.payload, [](const auto& access, Pack<Bits>& pack) {
      write_zeros(access, pack, pack.live & ~pack.marked);
    });
  }
}

// Puts new_value(element, its bits) in the place of every element, and writes what that changes.
template <typename Bits, typename Payload, typename NewValue>
__device__ inline void replace(const WorkList<Payload>& list, const Layout& layout, NewValue new_value) {
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const auto& item = item_at(list, chunk, &Item<Payload>::first);
    for_each_pack<Bits>(item, layout, chunk, nullptr, [&](const auto& access, Pack<Bits>& pack) {
      unsigned changed = 0;
#pragma unroll
      for (int e = 0; e < pack_size<Bits>; ++e) {
        if (!(pack.live >> e & 1u)) continue;
        const Bits value = new_value(item.payload, pack.at + e, pack.bits[e]);
        changed |= static_cast<unsigned>(value != pack.bits[e]) << e;
        pack.bits[e] = value;
      }
      if (changed != 0) access.store(pack, changed);
    });
  }
}

using AmountList = WorkList<double>;

template <Dtype dtype>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    soft_threshold_kernel(const __grid_constant__ AmountList list, const __grid_constant__ Layout layout) {
  using N = Number<dtype>;
  replace<typename N::Storage>(list, layout, [](double amount, std::int64_t, typename N::Storage bits) {
    return soft_thresholded<dtype>(bits, static_cast<typename N::Work>(amount));
  });
}

// One array, seen as (outer, length, inner); a slice is one index along `length`.
struct Slices {
  std::int64_t length, inner;
  const double* norms;  // one a slice
  double amount;
};
using SlicesList = WorkList<Slices>;

template <Dtype dtype>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    shrink_slices(const __grid_constant__ SlicesList list, const __grid_constant__ Layout layout) {
  using Storage = typename Number<dtype>::Storage;
  std::int64_t known = -1;  // neighbours are often of one slice
  double factor = 0;
  replace<Storage>(list, layout, [&](const Slices& slices, std::int64_t i, Storage bits) {
    const std::int64_t row = quotient(i, slices.inner), slice = row - quotient(row, slices.length) * slices.length;
    if (slice != known) known = slice, factor = shrinkage(slices.norms[slice], slices.amount);
    return scaled<dtype>(bits, factor);
  });
}

}  // namespace cuda
}  // namespace autoarch
