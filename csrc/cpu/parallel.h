// The threads of one operation, for all of its steps: those of the OpenMP runtime that is there (of our own a second one
// would bring a second pool), or else plain ones that wait between the steps.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "../tuning.h"
#include "openmp.h"

namespace autoarch {

inline int useful_threads(std::int64_t elements, int threads) {
  const std::int64_t useful = elements / tuning::thread_elements;
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, useful)));
}

// Returns when done() is true: looks often at first, then lets others have the core.
template <typename Done>
void wait_until(Done&& done) {
  for (int looks = 0; !done(); ++looks)
    if (looks >= tuning::looks_before_sleep)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    else if (looks >= tuning::looks_before_yield)
      std::this_thread::yield();
}

class Team {
 public:
  // Of the calling thread and `threads - 1` others, or as many as there are to be had.
  explicit Team(int threads) : openmp_(threads > 1 ? openmp() : nullptr), errors_(static_cast<std::size_t>(threads)) {
    if (openmp_ != nullptr) return;
    started_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (int t = 0; t < threads - 1; ++t) started_.emplace_back([this, t] { work(t); });
    } catch (const std::exception&) {  // no thread to be had, or no memory for one: the caller does what is left
    }
    // Linux lets a new thread begin on its parent's core, at the next tick (up to 4 ms) if the parent goes on; a parent
    // that wakes from sleep gets an idle core. Two threads of 1 ms each: 1.11 ms in all with this, 1.94 ms without.
    if (!started_.empty()) std::this_thread::sleep_for(std::chrono::microseconds(1));
  }
  ~Team() {
    over_ = true;
    step_.fetch_add(1, std::memory_order_release);
    for (std::thread& thread : started_) thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // f(0), ..., f(n - 1) at once, n <= threads, some on the calling thread; returns when all have, and throws what one
  // threw.
  template <typename F>
  void run(int n, F&& f) {
    f_ = std::ref(f), n_ = n;
    if (openmp_ != nullptr)
      autoarch::run(*openmp_, n, [this](int t) { guarded(t); });
    else
      run_plain(n);
    for (std::exception_ptr& error : errors_)
      if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

 private:
  void run_plain(int n) {
    const int others = static_cast<int>(started_.size());
    busy_.store(others, std::memory_order_relaxed);
    step_.fetch_add(1, std::memory_order_release);
    for (int t = std::min(others, n - 1); t < n; ++t) guarded(t);
    wait_until([&] { return busy_.load(std::memory_order_acquire) == 0; });
  }

  void work(int t) {
    for (std::uint64_t last = 0;; ++last) {
      wait_until([&] { return step_.load(std::memory_order_acquire) > last; });
      if (over_) return;
      if (t < n_ - 1) guarded(t);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  void guarded(int t) noexcept {
    try {
      f_(t);
    } catch (...) {
      errors_[static_cast<std::size_t>(t)] = std::current_exception();
    }
  }

  const OpenMp* openmp_;
  std::vector<std::thread> started_;
  std::vector<std::exception_ptr> errors_;
  std::function<void(int)> f_;
  int n_ = 0;
  bool over_ = false;
  std::atomic<std::uint64_t> step_{0};
  std::atomic<int> busy_{0};
};

// One step alone.
template <typename F>
void parallel(int threads, F&& f) {
  Team(threads).run(threads, std::forward<F>(f));
}

}  // namespace autoarch
