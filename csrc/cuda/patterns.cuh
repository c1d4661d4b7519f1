// Masks of structured sparsity on the device: n of m, and 2 of 4 along rows and columns.
#pragma once

#include <cstdint>

#include "../numeric.h"
#include "../patterns.h"
#include "packs.cuh"
#include "tuning.h"
#include "work_list.h"

namespace autoarch {
namespace cuda {

// A warp has a word of the mask, a lane a bit: an element stays if fewer than n of its m neighbours go before it.
template <typename Bits>
__global__ void nm_mask_kernel(const Bits* data, const __grid_constant__ Layout layout,
                               std::int64_t elements,  // outer * length * inner, m divides length
                               std::int64_t inner, int n, int m,
                               std::uint32_t* out)  // 2 words for every 64 elements
{
  const std::int64_t words = (elements + 63) / 64 * 2;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (tuning::threads / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (std::int64_t w = static_cast<std::int64_t>(blockIdx.x) * (tuning::threads / 32) + threadIdx.x / 32; w < words;
       w += warps) {
    const std::int64_t i = w * 32 + lane;
    int before = n;
    if (i < elements) {
      const std::int64_t row = quotient(i, inner);
      const int place = static_cast<int>(row - quotient(row, m) * m);
      const Bits key = magnitude_key(data[offset_of(layout, i)]);
      before = 0;
      for (int j = 0; j < m; ++j) {
        const Bits other = magnitude_key(data[offset_of(layout, i + (j - place) * inner)]);
        before += other > key || (other == key && j < place);
      }
    }
    const unsigned word = __ballot_sync(all_lanes, before < n);
    if (lane == 0) out[w] = word;
  }
}

// m == 4 along the last dimension: a pack is whole groups.
template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    nm4_mask_kernel(const __grid_constant__ WorkList<std::uint32_t*> list, const __grid_constant__ Layout layout,
                    int n) {
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const auto& item = item_at(list, chunk, &Item<std::uint32_t*>::first);
    for_each_pack<Bits>(item, layout, chunk, nullptr, [&](const auto&, const Pack<Bits>& pack) {
      Bits keys[pack_size<Bits>];
      unsigned keep = 0;
#pragma unroll
      for (int e = 0; e < pack_size<Bits>; ++e) keys[e] = magnitude_key(pack.bits[e]);
#pragma unroll
      for (int e = 0; e + 4 <= pack_size<Bits>; e += 4) keep |= static_cast<unsigned>(largest_of(keys + e, n, 4)) << e;
      write_mask<Bits>(item.payload, pack.at, item.n, keep & pack.live);
    });
  }
}

static __constant__ const TransposablePatterns transposable{};

// A thread has a 4 x 4 tile. Its rows lie in words that other tiles share, so the bits are added to a cleared mask.
template <Dtype dtype>
__global__ void transposable_mask_kernel(const typename Number<dtype>::Storage* data,
                                         const __grid_constant__ Layout layout, std::int64_t tiles,
                                         std::int64_t columns, std::uint32_t* out) {
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * tuning::threads;
  for (std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * tuning::threads + threadIdx.x; t < tiles;
       t += threads) {
    const std::int64_t band = quotient(t, columns / 4);  // four rows; matrices follow one another without a gap
    const std::int64_t first = band * 4 * columns + (t - band * (columns / 4)) * 4;
    double magnitudes[16];
#pragma unroll
    for (int i = 0; i < 16; ++i)
      magnitudes[i] = static_cast<double>(
          Number<dtype>::widen(magnitude_key(data[offset_of(layout, first + i / 4 * columns + i % 4)])));
    const unsigned pattern = best_pattern(transposable, magnitudes);
    for (int row = 0; row < 4; ++row) {
      const std::int64_t at = first + row * columns;
      atomicOr(&out[word_of(at)], (pattern >> (4 * row) & 0xfu) << bit_of(at));
    }
  }
}

}  // namespace cuda
}  // namespace autoarch
