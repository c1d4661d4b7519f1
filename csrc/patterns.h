// Which of a few neighbours stay: the decisions of n-of-m sparsity, the same on host and device.
#pragma once

#include <cstdint>

#include "ordered_bits.h"

namespace autoarch {

// The n largest of m keys as bits, among equals the first: key i stays if fewer than n others go before it.
template <typename Key>
AUTOARCH_HOST_DEVICE inline std::uint64_t largest_of(const Key* keys, int n, int m) {
  std::uint64_t keep = 0;
  for (int i = 0; i < m; ++i) {
    int before = 0;
    for (int j = 0; j < m; ++j) before += keys[j] > keys[i] || (keys[j] == keys[i] && j < i);
    keep |= static_cast<std::uint64_t>(before < n) << i;
  }
  return keep;
}

constexpr int transposable_patterns = 90;  // 4 x 4 matrices of bits with two in each row and two in each column

// Pattern number p as 16 bits, row-major. Numbered by the rows: the first row of a lower number has its bits further to
// the left (0011 0101 1001 0110 1010 1100 as binary numbers), then the second, the third; the fourth follows.
struct TransposablePatterns {
  std::uint16_t bits[transposable_patterns];

  AUTOARCH_HOST_DEVICE constexpr TransposablePatterns() : bits() {
    const unsigned pairs[6] = {0x3, 0x5, 0x9, 0x6, 0xa, 0xc};
    int p = 0;
    for (int a = 0; a < 6; ++a)
      for (int b = 0; b < 6; ++b)
        for (int c = 0; c < 6; ++c)
          for (int d = 0; d < 6; ++d) {
            const unsigned all = pairs[a] | pairs[b] << 4 | pairs[c] << 8 | pairs[d] << 12;
            bool two = true;
            for (int j = 0; j < 4; ++j)
              two = two && (all >> j & 1) + (all >> (j + 4) & 1) + (all >> (j + 8) & 1) + (all >> (j + 12) & 1) == 2;
            if (two) bits[p++] = static_cast<std::uint16_t>(all);
          }
  }
};

// The pattern whose 8 elements have the largest sum, added in row-major order; of equal sums the lowest number. NaN and
// infinity count as the largest number over 16.
AUTOARCH_HOST_DEVICE inline std::uint16_t best_pattern(const TransposablePatterns& patterns, const double* magnitudes) {
  constexpr double huge = 1.1235582092889474e307;  // the largest float64 over 16: eight of them have a finite sum
  double weights[16];
  for (int i = 0; i < 16; ++i) weights[i] = magnitudes[i] <= huge ? magnitudes[i] : huge;
  double best = -1;
  std::uint16_t winner = 0;
  for (int p = 0; p < transposable_patterns; ++p) {
    double sum = 0;
    for (int i = 0; i < 16; ++i)
      if (patterns.bits[p] >> i & 1) sum += weights[i];
    if (sum > best) best = sum, winner = patterns.bits[p];
  }
  return winner;
}

}  // namespace autoarch
