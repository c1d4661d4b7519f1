// f(0), ..., f(threads - 1) at once, the last on the calling thread; returns when all have, and throws what one threw.
// Plain threads rather than OpenMP: a second OpenMP runtime beside torch's would bring a second pool. Starting one
// takes some 20 µs, so callers give a thread at least `tuning::thread_elements` elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "../tuning.h"

namespace autoarch {

inline int useful_threads(std::int64_t elements, int threads) {
  const std::int64_t useful = elements / tuning::thread_elements;
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, useful)));
}

template <typename F>
void parallel(int threads, F&& f) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
  const auto guarded = [&](int t) noexcept {
    try {
      f(t);
    } catch (...) {
      errors[static_cast<std::size_t>(t)] = std::current_exception();
    }
  };
  std::vector<std::thread> started;
  started.reserve(static_cast<std::size_t>(threads - 1));
  int t = 0;
  try {
    for (; t < threads - 1; ++t) started.emplace_back(guarded, t);
  } catch (const std::system_error&) {  // no more threads to be had: this one does what is left
    for (int left = t; left < threads - 1; ++left) guarded(left);
  }
  guarded(threads - 1);
  for (std::thread& thread : started) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace autoarch
