// Proximal steps and norms on the CPU: soft thresholds of elements, norms and shrinkage of slices.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../dispatch.h"
#include "../numeric.h"
#include "../prune.h"
#include "groups.h"
#include "parallel.h"
#include "spans.h"

namespace autoarch {
namespace {

constexpr int lanes = 32;
constexpr std::int64_t widest = 64;  // slices looked at together: neighbours in memory where `inner` is 1

// Slices [begin, end) that one thread takes at once, so that what it reads of them lies together.
struct Tile {
  std::int64_t begin, end;
};

// Calls f(window, tile) for tiles of all slices, in parallel.
template <typename Storage, typename F>
void each_tile(const Arrays& one, const Groups& shape, int threads, F&& f) {
  const Array& array = one[0];
  check_groups(array, shape);
  if (shape.length == 0) return;
  const std::int64_t width =
      std::clamp<std::int64_t>(tuning::gathered_elements / std::max<std::int64_t>(shape.inner, 1), 1, widest);
  const std::int64_t tiles = (shape.length + width - 1) / width;
  threads = static_cast<int>(std::min<std::int64_t>(useful_threads(array.n, threads), tiles));
  auto windows = Window<Storage>::for_writing(one, threads);
  parallel(threads, [&](int t) {
    for (std::int64_t i = tiles * t / threads; i < tiles * (t + 1) / threads; ++i)
      f(windows[static_cast<std::size_t>(t)], Tile{i * width, std::min((i + 1) * width, shape.length)});
  });
}

// Calls f(g, e, data, n) for runs of a tile's elements as they lie in the array: e is the number of the first in slice
// g.
template <typename Storage, typename F>
void each_run(Window<Storage>& window, const Groups& shape, Tile tile, bool write, F&& f) {
  for (std::int64_t o = 0; o < shape.outer; ++o) {
    const std::int64_t first = (o * shape.length + tile.begin) * shape.inner;
    const std::int64_t count = (tile.end - tile.begin) * shape.inner;
    for (std::int64_t done = 0; done < count; done += tuning::gathered_elements) {
      const std::int64_t n = std::min(tuning::gathered_elements, count - done);
      Storage* const data = window.read(0, first + done, n);
      for (std::int64_t i = 0; i < n;) {
        const std::int64_t g = (done + i) / shape.inner, j = (done + i) % shape.inner;
        const std::int64_t run = std::min(shape.inner - j, n - i);
        f(tile.begin + g, o * shape.inner + j, data + i, run);
        i += run;
      }
      if (write) window.write(0, first + done, n);
    }
  }
}

// The lanes of a slice, added in the order that prune.h gives.
double total(double* sums) {
  for (int step = lanes / 2; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) sums[l] += sums[l + step];
  return sums[0];
}

template <Dtype dtype, typename Storage>
void norms_of_tile(Window<Storage>& window, const Groups& shape, Tile tile, int p, double* norms) {
  std::vector<double> sums(static_cast<std::size_t>((tile.end - tile.begin) * lanes));
  each_run<Storage>(window, shape, tile, false, [&](std::int64_t g, std::int64_t e, const Storage* x, std::int64_t n) {
    double* own = &sums[static_cast<std::size_t>((g - tile.begin) * lanes)];
    for (std::int64_t i = 0; i < n; ++i) {
      const auto magnitude = static_cast<double>(Number<dtype>::widen(magnitude_key(x[i])));
      own[(e + i) % lanes] += p == 1 ? magnitude : magnitude * magnitude;
    }
  });
  for (std::int64_t g = tile.begin; g < tile.end; ++g) {
    const double sum = total(&sums[static_cast<std::size_t>((g - tile.begin) * lanes)]);
    norms[g] = p == 1 ? sum : std::sqrt(sum);
  }
}

}  // namespace

void soft_threshold(const Arrays& arrays, const std::vector<double>& amounts, Dtype dtype, int threads) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  if (amounts.size() != arrays.size()) throw std::invalid_argument("Expected one amount for each array.");
  for (const double amount : amounts)
    if (!(amount >= 0)) throw std::invalid_argument("Expected amounts >= 0, got " + std::to_string(amount) + ".");
  const Blocks blocks(arrays);
  threads = useful_threads(blocks.elements(), threads);
  with_dtype(dtype, [&](auto constant) {
    using N = Number<decltype(constant)::value>;
    using Storage = typename N::Storage;
    write_spans<Storage>(arrays, blocks, threads, [&](std::size_t a, std::int64_t, Storage* x, std::int64_t n) {
      const auto amount = static_cast<typename N::Work>(amounts[a]);
      for (std::int64_t i = 0; i < n; ++i) x[i] = soft_thresholded<decltype(constant)::value>(x[i], amount);
    });
  });
}

void group_norms(const Array& array, const Groups& shape, int p, double* norms, Dtype dtype, int threads) {
  if (p != 1 && p != 2) throw std::invalid_argument("Expected `p` to be 1 or 2, got " + std::to_string(p) + ".");
  const Arrays one{array};
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype d = decltype(constant)::value;
    using Storage = typename Number<d>::Storage;
    each_tile<Storage>(one, shape, threads,
                       [&](Window<Storage>& window, Tile tile) { norms_of_tile<d>(window, shape, tile, p, norms); });
  });
}

void group_soft_threshold(const Array& array, const Groups& shape, const double* norms, double amount, Dtype dtype,
                          int threads) {
  if (!(amount >= 0)) throw std::invalid_argument("Expected `amount` >= 0, got " + std::to_string(amount) + ".");
  const Arrays one{array};
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype d = decltype(constant)::value;
    using Storage = typename Number<d>::Storage;
    each_tile<Storage>(one, shape, threads, [&](Window<Storage>& window, Tile tile) {
      each_run<Storage>(window, shape, tile, true, [&](std::int64_t g, std::int64_t, Storage* x, std::int64_t n) {
        const double factor = shrinkage(norms[g], amount);
        if (factor == 1) return;
        for (std::int64_t i = 0; i < n; ++i) x[i] = scaled<d>(x[i], factor);
      });
    });
  });
}

}  // namespace autoarch
