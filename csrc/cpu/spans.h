// A list of arrays as one run of blocks of 64 elements (a mask word each), cut into equal parts, one a thread.
//
//   arrays   |--- 0 ---|-- 1 --|------ 2 ------|      a block never spans two arrays, an array's last one may be short
//   parts    |----- 0 ------|------ 1 ---------|        in the order of flat indices
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../prune.h"
#include "../tuning.h"
#include "layout.h"
#include "parallel.h"

namespace autoarch {

constexpr std::int64_t block = 64;

class Blocks {
 public:
  explicit Blocks(const Arrays& arrays) : arrays_(arrays), first_(arrays.size() + 1) {
    for (std::size_t a = 0; a < arrays.size(); ++a) {
      first_[a + 1] = first_[a] + (arrays[a].n + block - 1) / block;
      elements_ += arrays[a].n;
    }
  }

  std::int64_t count() const { return first_.back(); }
  std::int64_t elements() const { return elements_; }
  std::size_t array_of(std::int64_t b) const {
    return static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), b) - first_.begin() - 1);
  }
  std::int64_t first(std::size_t array) const { return first_[array]; }

  // Calls f(array, start, n) for the runs of elements in the blocks [begin, end), in order; none goes across a multiple of
  // what `longest` gives for the array, itself a multiple of 64 or all of the array.
  template <typename Longest, typename F>
  void spans(std::int64_t begin, std::int64_t end, Longest&& longest, F&& f) const {
    for (std::size_t a = array_of(begin); begin < end; ++a) {
      const std::int64_t stop = std::min(end, first_[a + 1]);
      for (; begin < stop;) {
        const std::int64_t start = (begin - first_[a]) * block;
        const std::int64_t most = longest(a);
        const std::int64_t n = std::min({(stop - begin) * block, arrays_[a].n - start, most - start % most});
        f(a, start, n);
        begin += (n + block - 1) / block;
      }
    }
  }

 private:
  const Arrays& arrays_;
  std::vector<std::int64_t> first_;  // blocks before each array, and in all
  std::int64_t elements_ = 0;
};

// One thread's view of a span: the memory itself where it is contiguous, a copy elsewhere.
template <typename Storage>
class Window {
 public:
  explicit Window(const Arrays& arrays) : arrays_(arrays) {}

  // One a thread. With their memory: what is written through them must not end for want of it.
  static std::vector<Window> for_writing(const Arrays& arrays, int threads) {
    std::int64_t most = 0;
    for (const Array& array : arrays)
      if (array.layout.dims != 0)
        most = std::max(most, std::min(array.n, std::max(longest(array), tuning::gathered_elements)));
    std::vector<Window> windows(static_cast<std::size_t>(threads), Window(arrays));
    for (Window& window : windows) window.copy_.resize(static_cast<std::size_t>(most));
    return windows;
  }

  // A copy is whole rows where they are gapless runs of memory and not too long (channels_last): then so is the window.
  static bool whole_rows(const Array& array) {
    const std::int64_t unit = rows_in_blocks(array);
    return unit > 0 && unit <= tuning::gathered_rows;
  }
  static std::int64_t longest(const Array& array) {
    if (array.layout.dims == 0) return array.n;
    const std::int64_t unit = whole_rows(array) ? rows_in_blocks(array) : block;
    return std::max<std::int64_t>(1, tuning::gathered_elements / unit) * unit;
  }

  Storage* read(std::size_t a, std::int64_t start, std::int64_t n) {
    const Array& array = arrays_[a];
    if (array.layout.dims == 0) return static_cast<Storage*>(array.data) + start;
    if (static_cast<std::int64_t>(copy_.size()) < n) copy_.resize(static_cast<std::size_t>(n));
    gather(array, start, n, copy_.data());
    return copy_.data();
  }

  // Of what `read` gave, after it was changed.
  void write(std::size_t a, std::int64_t start, std::int64_t n) {
    if (arrays_[a].layout.dims != 0) scatter(arrays_[a], start, n, copy_.data());
  }

  // The elements of a window as they lie in memory, in whatever order; null if others lie between them.
  Storage* in_place(std::size_t a, std::int64_t start) const {
    const Array& array = arrays_[a];
    return array.layout.dims == 0 || whole_rows(array) ? static_cast<Storage*>(array.data) + start : nullptr;
  }

 private:
  // The least number of rows that are whole blocks, in elements; 0 where rows have gaps.
  static std::int64_t rows_in_blocks(const Array& array) {
    const std::int64_t row = gapless_row(array);
    return row / std::gcd(row, block) * block;
  }

  const Arrays& arrays_;
  std::vector<Storage> copy_;
};

// f(array, start, data, n) for every run of elements, on `threads` threads; `data` may be written. A run is in logical
// order; the runs come from the end of the list on, as the threads take them: an optimizer that goes through its
// parameters leaves the last of them in the cache.
template <typename Storage, typename F>
void write_spans(const Arrays& arrays, const Blocks& blocks, int threads, F&& f) {
  auto windows = Window<Storage>::for_writing(arrays, threads);
  std::atomic<std::int64_t> left{blocks.count()};
  parallel(threads, [&](int t) {
    Window<Storage>& window = windows[static_cast<std::size_t>(t)];
    const auto longest = [&](std::size_t a) { return Window<Storage>::longest(arrays[a]); };
    for (std::int64_t end; (end = left.fetch_sub(tuning::taken_blocks, std::memory_order_relaxed)) > 0;)
      blocks.spans(std::max<std::int64_t>(0, end - tuning::taken_blocks), end, longest,
                   [&](std::size_t a, std::int64_t start, std::int64_t n) {
                     f(a, start, window.read(a, start, n), n);
                     window.write(a, start, n);
                   });
  });
}

}  // namespace autoarch
