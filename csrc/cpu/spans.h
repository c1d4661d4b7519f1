// A list of arrays as one run of blocks of 64 elements (a mask word each), cut into equal parts, one a thread.
//
//   arrays   |--- 0 ---|-- 1 --|------ 2 ------|      a block never spans two arrays, an array's last one may be short
//   parts    |----- 0 ------|------ 1 ---------|        in the order of flat indices
#pragma once

#include <algorithm>
#include <cstdint>
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

  // Calls f(array, start, n) for the runs of elements in the blocks [begin, end), in order; n is what `longest` gives
  // for the array at most, a multiple of 64 but at an array's end.
  template <typename Longest, typename F>
  void spans(std::int64_t begin, std::int64_t end, Longest&& longest, F&& f) const {
    for (std::size_t a = array_of(begin); begin < end; ++a) {
      const std::int64_t stop = std::min(end, first_[a + 1]);
      for (; begin < stop;) {
        const std::int64_t start = (begin - first_[a]) * block;
        const std::int64_t n = std::min({(stop - begin) * block, arrays_[a].n - start, longest(a)});
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

  static std::int64_t longest(const Array& array) {
    return array.layout.dims == 0 ? array.n : tuning::gathered_elements;
  }

  // f(data, n) on the elements [start, start + n) of the array; with `write`, what f changed goes back.
  template <typename F>
  void operator()(std::size_t a, std::int64_t start, std::int64_t n, bool write, F&& f) {
    const Array& array = arrays_[a];
    if (array.layout.dims == 0) {
      f(static_cast<Storage*>(array.data) + start, n);
      return;
    }
    copy_.resize(static_cast<std::size_t>(tuning::gathered_elements));
    gather(array, start, n, copy_.data());
    f(copy_.data(), n);
    if (write) scatter(array, start, n, copy_.data());
  }

 private:
  const Arrays& arrays_;
  std::vector<Storage> copy_;
};

// f(array, start, data, n) for every run of elements in logical order, on `threads` threads.
template <typename Storage, typename F>
void each_span(const Arrays& arrays, const Blocks& blocks, int threads, bool write, F&& f) {
  parallel(threads, [&](int t) {
    Window<Storage> window(arrays);
    const auto longest = [&](std::size_t a) { return Window<Storage>::longest(arrays[a]); };
    blocks.spans(blocks.count() * t / threads, blocks.count() * (t + 1) / threads, longest,
                 [&](std::size_t a, std::int64_t start, std::int64_t n) {
                   window(a, start, n, write, [&](Storage* data, std::int64_t count) { f(a, start, data, count); });
                 });
  });
}

}  // namespace autoarch
