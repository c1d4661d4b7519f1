// The loops over contiguous elements that a selection is made of: one set for each instruction set, chosen at run time.
#pragma once

#include <cstdint>

#include "../prune.h"

namespace autoarch {

// Which of a run of elements are candidates: those whose bit is `given` ^ `flip`; all of them when `given` is null.
struct Candidates {
  Bits given = nullptr;
  std::uint64_t flip = 0;

  std::uint64_t word(std::int64_t b) const { return given ? given[b] ^ flip : ~std::uint64_t{0}; }
};

template <typename Storage>
struct Bracket {
  Storage low = 0, high = 0;  // low <= high
};

struct Tally {
  std::int64_t below = 0, at_low = 0, inside = 0, at_high = 0, above = 0, nan = 0;  // `above` holds the NaN too

  Tally& operator+=(const Tally& other) {
    below += other.below, at_low += other.at_low, inside += other.inside;
    at_high += other.at_high, above += other.above, nan += other.nan;
    return *this;
  }
};

// Keys strictly inside a bracket, as they are met. The loop stops when less than a block's room is left.
template <typename Storage>
struct Collector {
  Storage* next = nullptr;
  Storage* end = nullptr;
};

// Where a selection was cut: keys above `key` are kept, and the first `equal_left` of those that equal it.
template <typename Storage>
struct Cut {
  Storage key = 0;
  bool everything = false;  // nothing is removed, `key` is not looked at
};

template <typename Storage>
struct Loops {
  // Counts the candidates against the bracket, returns how many elements it got through: n, or fewer at a full collector.
  std::int64_t (*tally)(const Storage* x, std::int64_t n, Candidates, Bracket<Storage>, Storage infinity, Tally*,
                        Collector<Storage>*);
  // Adds the candidates with low <= key <= high to bins[(key - low) >> shift].
  void (*histogram)(const Storage* x, std::int64_t n, Candidates, Bracket<Storage>, int shift, std::int64_t* bins);
  std::int64_t (*count_equal)(const Storage* x, std::int64_t n, Candidates, Storage key);
  // Writes the words of the mask, and with `zero` the elements; takes the equals that are kept off `*equal_left`.
  void (*mark)(Storage* x, std::int64_t n, Candidates, Cut<Storage>, std::int64_t* equal_left, BitsOut out, bool regrow,
               bool zero);
  void (*apply)(Storage* x, std::int64_t n, Bits mask);
};

template <typename Storage>
Loops<Storage> loops_avx512();
template <typename Storage>
Loops<Storage> loops_avx2();
template <typename Storage>
Loops<Storage> loops_plain();

// The best that this processor has; decided once.
template <typename Storage>
const Loops<Storage>& loops();

}  // namespace autoarch
