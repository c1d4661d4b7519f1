// n-of-m masks on the CPU: keys of some whole groups in logical order, a decision for each, bits into words.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../dispatch.h"
#include "../numeric.h"
#include "../patterns.h"
#include "../prune.h"
#include "groups.h"
#include "parallel.h"
#include "spans.h"

namespace autoarch {
namespace {

// What a thread decides on at once: `unit` elements or a multiple, whole words, up to `longest` if that is more.
std::int64_t stretch(std::int64_t unit, std::int64_t longest) {
  std::int64_t whole = unit;
  while (whole % block) whole += unit;  // at most 64 times
  return std::max<std::int64_t>(1, longest / whole) * whole;
}

// keep: one byte an element, of which the bits are made.
void pack(const std::uint8_t* keep, std::int64_t n, BitsOut out) {
  for (std::int64_t b = 0; b * block < n; ++b) {
    std::uint64_t word = 0;
    for (std::int64_t i = 0; i < std::min(block, n - b * block); ++i)
      word |= static_cast<std::uint64_t>(keep[b * block + i]) << i;
    out[b] = word;
  }
}

// Calls decide(keys, elements, keep) on stretches of whole units of the array, in parallel, and packs what it decides.
template <typename Storage, typename Decide>
void each_stretch(const Array& array, std::int64_t unit, BitsOut out, int threads, Decide&& decide) {
  if (array.n == 0) return;
  const std::int64_t longest = std::min(stretch(unit, tuning::gathered_elements), array.n);
  const std::int64_t stretches = (array.n + longest - 1) / longest;
  threads = static_cast<int>(std::min<std::int64_t>(useful_threads(array.n, threads), stretches));
  parallel(threads, [&](int t) {
    std::vector<Storage> keys(static_cast<std::size_t>(longest));
    std::vector<std::uint8_t> keep(static_cast<std::size_t>(longest));
    for (std::int64_t s = stretches * t / threads; s < stretches * (t + 1) / threads; ++s) {
      const std::int64_t start = s * longest, n = std::min(longest, array.n - start);
      copy_run(array, start, n, keys.data());
      for (std::int64_t i = 0; i < n; ++i) keys[static_cast<std::size_t>(i)] = magnitude_key(keys[static_cast<std::size_t>(i)]);
      decide(keys.data(), n, keep.data());
      pack(keep.data(), n, out + start / block);
    }
  });
}

// 2 of 4 neighbours in memory, the common case: six comparisons, no loop over the group, so that it vectorises.
template <typename Storage>
void two_of_four(const Storage* keys, std::int64_t n, std::uint8_t* keep) {
  for (std::int64_t i = 0; i < n; i += 4) {
    const Storage a = keys[i], b = keys[i + 1], c = keys[i + 2], d = keys[i + 3];
    const int ab = a >= b, ac = a >= c, ad = a >= d, bc = b >= c, bd = b >= d, cd = c >= d;
    keep[i] = ab + ac + ad >= 2;
    keep[i + 1] = (1 - ab) + bc + bd >= 2;
    keep[i + 2] = (1 - ac) + (1 - bc) + cd >= 2;
    keep[i + 3] = (1 - ad) + (1 - bd) + (1 - cd) >= 2;
  }
}

template <typename Storage>
void n_of_m(const Storage* keys, std::int64_t elements, std::int64_t inner, int n, int m, std::uint8_t* keep) {
  Storage group[64];
  for (std::int64_t start = 0; start < elements; start += m * inner)
    for (std::int64_t j = 0; j < inner; ++j) {
      for (int i = 0; i < m; ++i) group[i] = keys[start + i * inner + j];
      const std::uint64_t kept = largest_of(group, n, m);
      for (int i = 0; i < m; ++i) keep[start + i * inner + j] = kept >> i & 1;
    }
}

template <Dtype dtype>
void tiles(const typename Number<dtype>::Storage* keys, std::int64_t elements, std::int64_t columns, std::uint8_t* keep) {
  static constexpr TransposablePatterns patterns;
  for (std::int64_t start = 0; start < elements; start += 4 * columns)
    for (std::int64_t tile = start; tile < start + columns; tile += 4) {
      double magnitudes[16];
      for (int i = 0; i < 16; ++i)
        magnitudes[i] = static_cast<double>(Number<dtype>::widen(keys[tile + i / 4 * columns + i % 4]));
      const std::uint16_t pattern = best_pattern(patterns, magnitudes);
      for (int i = 0; i < 16; ++i) keep[tile + i / 4 * columns + i % 4] = pattern >> i & 1;
    }
}

}  // namespace

void nm_mask(const Array& array, const Groups& shape, int n, int m, BitsOut out, Dtype dtype, int threads) {
  check_groups(array, shape);
  if (n < 1 || n > m || m > 64)
    throw std::invalid_argument("Expected 1 <= n <= m <= 64, got n=" + std::to_string(n) + ", m=" + std::to_string(m) + ".");
  if (shape.length % m) throw std::invalid_argument("Expected `length` to be a multiple of m.");
  with_bits(dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const auto decide = [&](const Storage* keys, std::int64_t elements, std::uint8_t* keep) {
      if (n == 2 && m == 4 && shape.inner == 1)
        two_of_four(keys, elements, keep);
      else
        n_of_m(keys, elements, shape.inner, n, m, keep);
    };
    each_stretch<Storage>(array, m * shape.inner, out, threads, decide);
  });
}

void transposable_mask(const Array& array, const Matrices& shape, BitsOut out, Dtype dtype, int threads) {
  check_groups(array, {shape.batch, shape.rows, shape.columns});
  if (shape.rows % 4 || shape.columns % 4)
    throw std::invalid_argument("Expected rows and columns to be multiples of 4.");
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype d = decltype(constant)::value;
    using Storage = typename Number<d>::Storage;
    each_stretch<Storage>(array, 4 * shape.columns, out, threads,
                          [&](const Storage* keys, std::int64_t elements, std::uint8_t* keep) {
                            tiles<d>(keys, elements, shape.columns, keep);
                          });
  });
}

}  // namespace autoarch
