// The key of a given rank among keys in memory: a histogram of 2,048 bins over the range, then the bin that holds the
// rank is the range, until a bin is one key. No sort, no change of the keys.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "loops.h"

namespace autoarch {

constexpr int rank_bits = 11;
constexpr std::size_t rank_bins = std::size_t{1} << rank_bits;

// The key of rank `rank` (from 1), how many equal it, and how many of those have a larger rank: `equal - taken`.
template <typename Storage>
struct Ranked {
  Storage key = 0;
  std::int64_t equal = 0;
  std::int64_t kept_equal = 0;
};

// So many low bits of (key - low) are left out for the range to fit in the bins.
template <typename Storage>
int bin_shift(const Bracket<Storage>& range) {
  int shift = 0;
  while (static_cast<Storage>(range.high - range.low) >> shift >= Storage{1} << rank_bits) ++shift;
  return shift;
}

// count(range, shift, bins) adds the histogram of the keys in `range`; there are at least `rank` of them, rank >= 1.
template <typename Storage, typename Count>
Ranked<Storage> narrow(Bracket<Storage> range, std::int64_t rank, Count&& count) {
  for (;;) {
    const int shift = bin_shift(range);
    std::vector<std::int64_t> bins(rank_bins);
    count(range, shift, bins.data());
    std::size_t bin = 0;
    for (; bin < rank_bins && rank > bins[bin]; ++bin) rank -= bins[bin];
    if (bin == rank_bins) throw std::runtime_error("The weights were changed by somebody else during the call.");
    range.low = static_cast<Storage>(range.low + (static_cast<Storage>(bin) << shift));
    const Storage last = static_cast<Storage>(range.low + ((Storage{1} << shift) - 1));
    if (last < range.high) range.high = last;
    if (shift == 0) return {range.low, bins[bin], bins[bin] - rank};
  }
}

template <typename Storage>
void histogram_of_keys(const Storage* keys, std::int64_t n, Bracket<Storage> range, int shift, std::int64_t* bins) {
  const Storage width = static_cast<Storage>(range.high - range.low);
  for (std::int64_t i = 0; i < n; ++i) {
    const Storage from_low = static_cast<Storage>(keys[i] - range.low);  // wraps, to more than `width`, below `low`
    if (from_low <= width) ++bins[from_low >> shift];
  }
}

}  // namespace autoarch
