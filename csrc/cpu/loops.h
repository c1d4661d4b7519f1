// The loops over contiguous elements that a selection is made of: one set for each instruction set, chosen at run time.
#pragma once

#include <cstdint>

#include "../prune.h"
#include "../tuning.h"

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

// What a pass over candidates found: how many keys are at most `low`, and how many at least `high` (NaN among them);
// those between are collected, not counted.
template <typename Storage>
struct Tally {
  std::int64_t to_low = 0, from_high = 0;
  bool nan = false;
};

// Elements that a loop may go through in any order at once, and so many may be inside a bracket.
template <typename Storage>
constexpr std::int64_t batch = tuning::streams * tuning::stream_bytes / static_cast<std::int64_t>(sizeof(Storage));

// Keys strictly inside a bracket, as they are met. `end` leaves room for a batch and a block: a whole block is written
// at `next`, of which what is inside counts.
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
  // Sorts the candidates by the bracket, low < high and low <= infinity; returns how many elements it got through: n, or
  // a multiple of 64 when the collector is full.
  std::int64_t (*tally)(const Storage* x, std::int64_t n, Candidates, Bracket<Storage>, Storage infinity,
                        Tally<Storage>*, Collector<Storage>*);
  // Adds the candidates with low <= key <= high to bins[(key - low) >> shift].
  void (*histogram)(const Storage* x, std::int64_t n, Candidates, Bracket<Storage>, int shift, std::int64_t* bins);
  std::int64_t (*count_equal)(const Storage* x, std::int64_t n, Candidates, Storage key);
  std::int64_t (*count_above)(const Storage* x, std::int64_t n, Candidates, Storage key);
  // Writes the words of the mask, and with `zero` the elements; takes the equals that are kept off `*equal_left`.
  void (*mark)(Storage* x, std::int64_t n, Candidates, Cut<Storage>, std::int64_t* equal_left, BitsOut out, bool regrow,
               bool zero);
  // Clears the elements up to the key; none that equal it is kept.
  void (*clear)(Storage* x, std::int64_t n, Cut<Storage>);
  void (*apply)(Storage* x, std::int64_t n, Bits mask);
  std::int64_t (*count_nonzero)(const Storage* x, std::int64_t n);
  std::int64_t (*count_ones)(Bits words, std::int64_t n);
};

template <typename Storage>
Loops<Storage> loops_avx512();
template <typename Storage>
Loops<Storage> loops_avx2();
template <typename Storage>
Loops<Storage> loops_plain();

// Those of `chosen_set`.
template <typename Storage>
const Loops<Storage>& loops();

}  // namespace autoarch
