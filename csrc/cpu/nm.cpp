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

// `rows` rows of `columns` elements, one after the other: what is decided on column by column (or 4 columns at a time).
struct Slab {
  std::int64_t rows, columns;

  std::int64_t elements() const { return rows * columns; }
};

// Buffers of one thread.
template <typename Storage>
struct Work {
  std::vector<Storage> keys;
  std::vector<std::uint8_t> keep;

  explicit Work(std::int64_t n) : keys(static_cast<std::size_t>(n)), keep(static_cast<std::size_t>(n)) {}

  void read(const Array& array, std::int64_t start, std::int64_t n, std::int64_t at) {
    Storage* to = keys.data() + at;
    copy_run(array, start, n, to);
    for (std::int64_t i = 0; i < n; ++i) to[i] = magnitude_key(to[i]);
  }
};

// f(work, start, n) on the stretches of the array, `longest` elements each but the last, in parallel.
template <typename Storage, typename F>
void each_stretch(const Array& array, std::int64_t longest, std::int64_t buffer, int threads, F&& f) {
  const std::int64_t stretches = (array.n + longest - 1) / longest;
  threads = static_cast<int>(std::min<std::int64_t>(useful_threads(array.n, threads), stretches));
  parallel(threads, [&](int t) {
    Work<Storage> work(buffer);
    for (std::int64_t s = stretches * t / threads; s < stretches * (t + 1) / threads; ++s)
      f(work, s * longest, std::min(longest, array.n - s * longest));
  });
}

// Strips of a slab that is too wide for the buffers. The words of `out` belong to this thread and are 0.
template <typename Storage, typename Decide>
void decide_in_strips(Work<Storage>& work, const Array& array, std::int64_t start, Slab slab, BitsOut out,
                      Decide&& decide) {
  const std::int64_t widest = tuning::gathered_elements / slab.rows / 4 * 4;
  for (std::int64_t left = 0; left < slab.columns; left += widest) {
    const std::int64_t width = std::min(widest, slab.columns - left);
    const auto place = [&](std::int64_t row) { return start + row * slab.columns + left; };
    for (std::int64_t i = 0; i < slab.rows; ++i) work.read(array, place(i), width, i * width);
    decide(work.keys.data(), slab.rows * width, width, work.keep.data());
    for (std::int64_t i = 0; i < slab.rows; ++i)
      for (std::int64_t j = 0; j < width; ++j)
        out[(place(i) + j) / block] |= std::uint64_t{work.keep[static_cast<std::size_t>(i * width + j)]}
                                       << (place(i) + j) % block;
  }
}

// Calls decide(keys, elements, columns, keep) on slabs, whole or in strips, and packs what it decides.
template <typename Storage, typename Decide>
void each_slab(const Array& array, Slab slab, BitsOut out, int threads, Decide&& decide) {
  if (array.n == 0) return;
  const std::int64_t words = stretch(slab.elements(), tuning::gathered_elements);
  const std::int64_t longest = std::min(words, array.n);
  if (longest <= tuning::decided_elements) {
    each_stretch<Storage>(array, longest, longest, threads,
                          [&](Work<Storage>& work, std::int64_t start, std::int64_t n) {
                            work.read(array, start, n, 0);
                            decide(work.keys.data(), n, slab.columns, work.keep.data());
                            pack(work.keep.data(), n, out + start / block);
                          });
    return;
  }
  const auto in_strips = [&](Work<Storage>& work, std::int64_t start, std::int64_t n) {
    std::fill_n(out + start / block, (n + block - 1) / block, std::uint64_t{0});
    for (std::int64_t i = 0; i < n; i += slab.elements()) decide_in_strips(work, array, start + i, slab, out, decide);
  };
  each_stretch<Storage>(array, longest, tuning::gathered_elements, threads, in_strips);
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
void tiles(const typename Number<dtype>::Storage* keys, std::int64_t elements, std::int64_t columns,
           std::uint8_t* keep) {
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
    throw std::invalid_argument("Expected 1 <= n <= m <= 64, got n=" + std::to_string(n) + ", m=" + std::to_string(m) +
                                ".");
  if (shape.length % m) throw std::invalid_argument("Expected `length` to be a multiple of m.");
  with_bits(dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const auto decide = [&](const Storage* keys, std::int64_t elements, std::int64_t inner, std::uint8_t* keep) {
      if (n == 2 && m == 4 && inner == 1)
        two_of_four(keys, elements, keep);
      else
        n_of_m(keys, elements, inner, n, m, keep);
    };
    each_slab<Storage>(array, {m, shape.inner}, out, threads, decide);
  });
}

void transposable_mask(const Array& array, const Matrices& shape, BitsOut out, Dtype dtype, int threads) {
  check_groups(array, {shape.batch, shape.rows, shape.columns});
  if (shape.rows % 4 || shape.columns % 4)
    throw std::invalid_argument("Expected rows and columns to be multiples of 4.");
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype d = decltype(constant)::value;
    using Storage = typename Number<d>::Storage;
    each_slab<Storage>(array, {4, shape.columns}, out, threads, tiles<d>);
  });
}

}  // namespace autoarch
