// The key of a given rank, digit by digit: a histogram of the leading bits that are still open, then the digit in which
// the rank lies. Keys come from a buffer or, without any bound on their number, from the arrays themselves.
#pragma once

#include <cstdint>

#include "../ordered_bits.h"
#include "bracket.h"
#include "packs.cuh"
#include "tuning.h"

namespace autoarch {
namespace cuda {

constexpr int bins = 1 << tuning::digit_bits;

// The key of rank `rank` (from 1) among those in [low, low + 2^open). Nothing is asked for where rank == 0. At the end
// `open` is 0, the key is `low`, and `equals` keys are equal to it.
struct Selection {
  Count low, rank, equals;
  int open;
};

constexpr int selections = 2;
using Histogram = Count[selections][bins];

__device__ inline int digit_shift(int open) { return open > tuning::digit_bits ? open - tuning::digit_bits : 0; }

template <typename Bits>
__device__ inline void tally(const Selection& selection, Bits key, unsigned* counts) {
  const auto rest = static_cast<Count>(key) - selection.low;  // wraps around below `low`
  if (rest >> selection.open == 0) atomicAdd(&counts[rest >> digit_shift(selection.open)], 1u);
}

__device__ inline void clear_counts(unsigned (&counts)[selections][bins]) {
  for (int i = static_cast<int>(threadIdx.x); i < selections * bins; i += tuning::threads)
    counts[i / bins][i % bins] = 0;
  __syncthreads();
}

__device__ inline void add_counts(const unsigned (&counts)[selections][bins], Histogram* histogram) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < selections * bins; i += tuning::threads)
    if (counts[i / bins][i % bins] != 0)
      atomicAdd(&(*histogram)[i / bins][i % bins], Count{counts[i / bins][i % bins]});
}

template <typename Bits>
__global__ void histogram_of_buffer(const Bits* buffer,          // `capacity` keys at most
                                    const Count* wanted,         // so many keys wanted to be there
                                    Count capacity,              //
                                    const Selection* selection,  // `selections` of them
                                    Histogram* histogram)        // is added to
{
  __shared__ unsigned counts[selections][bins];
  const Selection first = selection[0], second = selection[1];
  if (first.rank == 0 && second.rank == 0) return;
  clear_counts(counts);
  const Count n = *wanted < capacity ? *wanted : capacity;
  for (Count i = Count{blockIdx.x} * tuning::threads + threadIdx.x; i < n; i += Count{gridDim.x} * tuning::threads) {
    const Bits key = buffer[i];
    if (first.rank != 0) tally(first, key, counts[0]);
    if (second.rank != 0) tally(second, key, counts[1]);
  }
  add_counts(counts, histogram);
}

struct Found {
  std::int64_t index;
  Count before;
};

// The first index up to which count(0) + count(1) + ... reaches the rank, and the sum before it; the sum of all n >= 1
// must reach it. The whole block calls this: each thread adds up a part, the part that has the rank is looked at again.
template <typename CountOf>
__device__ inline Found block_find(std::int64_t n, Count rank, CountOf count) {
  __shared__ Count sums[tuning::threads];
  const int me = static_cast<int>(threadIdx.x);
  std::int64_t begin = 0, end = n;
  Count before = 0;
  while (end - begin > 1) {
    const std::int64_t part = (end - begin + tuning::threads - 1) / tuning::threads;
    const std::int64_t first = begin + me * part, last = first + part < end ? first + part : end;
    Count sum = 0;
    for (std::int64_t i = first; i < last; ++i) sum += count(i);
    sums[me] = sum;
    __syncthreads();
    for (int offset = 1; offset < tuning::threads; offset *= 2) {
      const Count left = me >= offset ? sums[me - offset] : 0;
      __syncthreads();
      sums[me] += left;
      __syncthreads();
    }
    int low = 0, high = tuning::threads - 1;  // the first part whose sum reaches the rank
    while (low < high) {
      const int middle = (low + high) / 2;
      if (before + sums[middle] >= rank)
        high = middle;
      else
        low = middle + 1;
    }
    const Count left = low > 0 ? sums[low - 1] : 0;
    __syncthreads();
    before += left;
    begin += low * part;
    end = begin + part < end ? begin + part : end;
  }
  return {begin, before};
}

// One block: settles the next digit of each selection, and clears the histogram for the one after.
static __global__ void settle_digit(Selection* selection, Histogram* histogram) {
  for (int s = 0; s < selections; ++s) {
    const Selection now = selection[s];
    if (now.rank == 0) continue;
    Count* counts = (*histogram)[s];
    const Found found = block_find(bins, now.rank, [&](std::int64_t i) { return counts[i]; });
    const Count equals = counts[found.index];
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < bins; i += tuning::threads) counts[i] = 0;
    if (threadIdx.x == 0) {
      const int shift = digit_shift(now.open);
      selection[s] = {now.low + (static_cast<Count>(found.index) << shift), now.rank - found.before, equals, shift};
    }
  }
}

}  // namespace cuda
}  // namespace autoarch
