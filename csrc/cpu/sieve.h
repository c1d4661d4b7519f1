// A sieve for instruction sets without a compressing store: masks of 64 comparisons, and a loop over the bits between.
#pragma once

#include <cstdint>

#include "../ordered_bits.h"

namespace autoarch {

// Keys of candidates against a bracket, block after block; `next` moves behind the keys strictly inside.
template <typename Simd, typename Storage>
struct MaskSieve {
  Storage low, below_high;
  Storage* next;
  std::int64_t below = 0, above = 0;
  Storage most = 0;

  MaskSieve(Storage low_, Storage high_, Storage* next_)
      : low(low_), below_high(static_cast<Storage>(high_ - 1)), next(next_) {}

  void operator()(const Storage* x, std::uint64_t candidates) {
    const std::uint64_t past_low = candidates & Simd::above(x, low);
    const std::uint64_t past_high = candidates & Simd::above(x, below_high);
    below += __builtin_popcountll(candidates & ~past_low);
    above += __builtin_popcountll(past_high);
    most = candidates == ~std::uint64_t{0} ? Simd::largest(x, most) : largest_of_candidates(x, past_high);
    for (std::uint64_t in = past_low & ~past_high; in; in &= in - 1) {
      const Storage key = magnitude_key(x[__builtin_ctzll(in)]);
      most = key > most ? key : most;  // a NaN too, where the bracket ends above infinity
      *next++ = key;
    }
  }

  Storage largest_of_candidates(const Storage* x, std::uint64_t which) const {
    Storage result = most;
    for (; which; which &= which - 1) {
      const Storage key = magnitude_key(x[__builtin_ctzll(which)]);
      result = key > result ? key : result;
    }
    return result;
  }

  std::int64_t to_low() const { return below; }
  std::int64_t from_high() const { return above; }
  Storage largest() const { return most; }
};

}  // namespace autoarch
