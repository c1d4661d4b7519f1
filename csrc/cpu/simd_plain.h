// What loops_impl.h asks of an instruction set, in plain C++: comparisons of 64 magnitudes, and zeros by a mask.
//
//   above(x, t)        bit i: magnitude_key(x[i]) > t                 x: 64 elements, any alignment
//   zero(x, keep)      x[i] = 0 where bit i of keep is 0
//   largest(x, most)   the largest of `most` and the magnitudes
//   Sieve              a bracket's pass, see sieve.h
#pragma once

#include <cstdint>

#include "../ordered_bits.h"
#include "sieve.h"

namespace autoarch {

struct Plain {
  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; ++i) mask |= static_cast<std::uint64_t>(magnitude_key(x[i]) > t) << i;
    return mask;
  }

  template <typename Storage>
  static Storage largest(const Storage* x, Storage most) {
    for (int i = 0; i < 64; ++i) most = magnitude_key(x[i]) > most ? magnitude_key(x[i]) : most;
    return most;
  }

  template <typename Storage>
  using Sieve = MaskSieve<Plain, Storage>;

  template <typename Storage>
  static void zero(Storage* x, std::uint64_t keep) {
    for (int i = 0; i < 64; ++i) x[i] = static_cast<Storage>(x[i] & (Storage{0} - static_cast<Storage>(keep >> i & 1)));
  }
};

}  // namespace autoarch
