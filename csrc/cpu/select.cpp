// Exact selection in two passes over the weights.
//
//   sample ─► bracket [low, high] of the rank ─► tally: counts below, at and between, keys between are collected ─┐
//   words, zeros ◄─ mark: compare with the key ◄─ equals before each part, if some are kept ◄─ key of the rank ◄──┘
//
// A rank outside of the bracket, or more keys between than there is room for, is seen in the counts, and histograms over
// the weights themselves find the key (`narrow`): slower, never less exact.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "../dispatch.h"
#include "../numeric.h"
#include "../prune.h"
#include "../tuning.h"
#include "loops.h"
#include "parallel.h"
#include "rank.h"
#include "spans.h"

namespace autoarch {
namespace {

// Room for the keys between: threads take piece after piece, so it does not matter whose part they are in.
template <typename Storage>
class Pool {
 public:
  Pool(std::int64_t keys, int threads)
      : pieces_(keys / tuning::piece + threads + 1),
        memory_(new Storage[static_cast<std::size_t>(pieces_ * tuning::piece)]),
        used_(static_cast<std::size_t>(pieces_)) {}

  // False when it is full.
  bool take(Collector<Storage>* into) {
    const std::int64_t p = next_.fetch_add(1, std::memory_order_relaxed);
    if (p >= pieces_) return false;
    into->next = memory_.get() + p * tuning::piece;
    into->end = into->next + tuning::piece;
    return true;
  }
  void give(const Collector<Storage>& from) {
    if (!from.end) return;
    const std::int64_t p = (from.end - memory_.get()) / tuning::piece - 1;
    used_[static_cast<std::size_t>(p)] = from.next - (memory_.get() + p * tuning::piece);
  }

  void histogram(Bracket<Storage> range, int shift, std::int64_t* bins) const {
    for (std::int64_t p = 0; p < pieces_; ++p)
      histogram_of_keys(memory_.get() + p * tuning::piece, used_[static_cast<std::size_t>(p)], range, shift, bins);
  }

 private:
  std::int64_t pieces_;
  std::unique_ptr<Storage[]> memory_;  // not initialised: pages that stay unused are never touched
  std::vector<std::int64_t> used_;
  std::atomic<std::int64_t> next_{0};
};

// A number that looks random, from a counter (splitmix64's finaliser).
std::uint64_t scrambled(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

template <Dtype dtype>
class Selection {
 public:
  using Storage = typename Number<dtype>::Storage;

  Selection(const Arrays& arrays, const Request& request, int threads)
      : arrays_(arrays),
        request_(request),
        blocks_(arrays),
        threads_(useful_threads(blocks_.elements(), threads)),
        loops_(loops<Storage>()) {}

  Threshold run() {
    const std::int64_t candidates = count_candidates();
    if (request_.remove < 0 || request_.remove > candidates)
      throw std::invalid_argument("Expected `remove` in [0, " + std::to_string(candidates) + "], got " +
                                  std::to_string(request_.remove) + ".");
    const Bracket<Storage> bracket = choose_bracket(candidates);
    Pool<Storage> pool(pool_keys(), threads_);
    const bool complete = tally(bracket, pool);
    if (counts_.nan && !request_.keep_nan) return nan_found();
    Threshold result;
    result.numbers = candidates - counts_.nan;
    if (request_.remove > result.numbers) return result;
    if (request_.remove > 0) {
      const Ranked<Storage> found = ranked(bracket, complete ? &pool : nullptr);
      result.key = found.key, result.kept_equal = found.kept_equal;
      if (!request_.out.empty()) mark({found.key, false}, found);
    } else if (!request_.out.empty()) {
      mark({0, true}, {});
    }
    return result;
  }

 private:
  Candidates candidates(std::size_t array, std::int64_t start) const {
    if (request_.given.empty()) return {};
    return {request_.given[array] + start / block, request_.regrow ? ~std::uint64_t{0} : 0};
  }

  std::int64_t part(int t) const { return blocks_.count() * t / threads_; }

  // f(thread, array, start, data, n) for every run of elements: in logical order, or as they lie in memory.
  template <typename F>
  void each(int threads, bool any_order, bool write, F&& f) {
    const auto as_it_lies = [&](std::size_t a) {
      return arrays_[a].layout.dims == 0 || (any_order && request_.given.empty() && is_dense(arrays_[a]));
    };
    parallel(threads, [&](int t) {
      Window<Storage> window(arrays_);
      const auto longest = [&](std::size_t a) { return as_it_lies(a) ? arrays_[a].n : tuning::gathered_elements; };
      blocks_.spans(part(t), part(t + 1), longest, [&](std::size_t a, std::int64_t start, std::int64_t n) {
        const auto visit = [&](Storage* data, std::int64_t count) { f(t, a, start, data, count); };
        if (as_it_lies(a))
          visit(static_cast<Storage*>(arrays_[a].data) + start, n);
        else
          window(a, start, n, write, visit);
      });
    });
  }

  std::int64_t count_candidates() {
    if (request_.given.empty()) return blocks_.elements();
    std::int64_t kept = 0;
    for (std::size_t a = 0; a < arrays_.size(); ++a) kept += count_bits(request_.given[a], (arrays_[a].n + 63) / 64);
    return request_.regrow ? blocks_.elements() - kept : kept;
  }

  std::int64_t pool_keys() const {
    if (blocks_.elements() <= tuning::collect_all) return blocks_.elements() + block * threads_;
    const auto share = static_cast<std::int64_t>(tuning::collected_share * static_cast<double>(blocks_.elements()));
    return std::max(tuning::collect_all, share);
  }

  Bracket<Storage> choose_bracket(std::int64_t candidates) {
    constexpr Storage top = magnitude_key(static_cast<Storage>(~Storage{0}));
    if (request_.remove == 0) return {0, 0};
    if (blocks_.elements() <= tuning::collect_all) return {0, top};
    const std::vector<Storage> keys = sample();
    const auto n = static_cast<double>(keys.size());
    const double share = static_cast<double>(request_.remove) / static_cast<double>(candidates);
    const double spread = std::sqrt(share * (1 - share) * n * static_cast<double>(tuning::sample_run));
    const double reach = tuning::bracket_deviations * (spread + 1);
    const std::int64_t ranks[2] = {static_cast<std::int64_t>(std::floor(share * n - reach)),
                                   static_cast<std::int64_t>(std::ceil(share * n + reach))};
    Storage ends[2] = {0, top};
    parallel(threads_ > 1 ? 2 : 1, [&](int t) {
      for (int i = t; i < 2; i += threads_ > 1 ? 2 : 1)
        if (ranks[i] >= 1 && ranks[i] <= static_cast<std::int64_t>(keys.size())) ends[i] = key_of(keys, ranks[i]);
    });
    return {ends[0], ends[1]};
  }

  static Storage key_of(const std::vector<Storage>& keys, std::int64_t rank) {
    const Bracket<Storage> any = {0, magnitude_key(static_cast<Storage>(~Storage{0}))};
    const auto count = [&](Bracket<Storage> range, int shift, std::int64_t* bins) {
      histogram_of_keys(keys.data(), static_cast<std::int64_t>(keys.size()), range, shift, bins);
    };
    return narrow(any, rank, count).key;
  }

  // Keys of candidates in random places: one place in each of equal stretches of blocks, the same in every call.
  std::vector<Storage> sample() {
    const std::int64_t runs =
        std::clamp(blocks_.elements() / 256, tuning::sample_runs_min, tuning::sample_runs_max);
    std::vector<std::vector<Storage>> found(static_cast<std::size_t>(threads_));
    parallel(threads_, [&](int t) {
      auto& mine = found[static_cast<std::size_t>(t)];
      mine.reserve(static_cast<std::size_t>((runs / threads_ + 1) * tuning::sample_run));
      for (std::int64_t run = runs * t / threads_; run < runs * (t + 1) / threads_; ++run) sample_run(run, runs, mine);
    });
    for (std::size_t t = 1; t < found.size(); ++t) found[0].insert(found[0].end(), found[t].begin(), found[t].end());
    return std::move(found[0]);
  }

  void sample_run(std::int64_t run, std::int64_t runs, std::vector<Storage>& into) const {
    const std::uint64_t random = scrambled(static_cast<std::uint64_t>(run));
    const double place = (static_cast<double>(run) + static_cast<double>(random >> 11) * 0x1p-53) / static_cast<double>(runs);
    const auto b = std::min(blocks_.count() - 1, static_cast<std::int64_t>(place * static_cast<double>(blocks_.count())));
    const std::size_t a = blocks_.array_of(b);
    const std::int64_t start = (b - blocks_.first(a)) * block;
    const std::uint64_t word = candidates(a, start).word(0);
    const auto first = static_cast<std::int64_t>(random & 63) / tuning::sample_run * tuning::sample_run;
    for (std::int64_t i = first; i < first + tuning::sample_run && start + i < arrays_[a].n; ++i)
      if (word >> i & 1)
        into.push_back(magnitude_key(static_cast<const Storage*>(arrays_[a].data)[offset_of(arrays_[a].layout, start + i)]));
  }

  // Whether every key between found room.
  bool tally(Bracket<Storage> bracket, Pool<Storage>& pool) {
    std::vector<Tally> tallies(static_cast<std::size_t>(threads_));
    std::vector<Collector<Storage>> collectors(static_cast<std::size_t>(threads_));
    std::atomic<bool> complete{true};
    std::vector<std::vector<Storage>> discarded(static_cast<std::size_t>(threads_));
    each(threads_, true, false, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      auto& collector = collectors[static_cast<std::size_t>(t)];
      for (std::int64_t done = 0;;) {
        done += loops_.tally(x + done, n - done, candidates(a, start + done), bracket, Number<dtype>::infinity,
                             &tallies[static_cast<std::size_t>(t)], &collector);
        if (done == n) break;
        pool.give(collector);
        if (pool.take(&collector)) continue;
        complete = false;  // only the counts are of use now
        auto& waste = discarded[static_cast<std::size_t>(t)];
        waste.resize(static_cast<std::size_t>(tuning::piece));
        collector = {waste.data(), waste.data() + waste.size()};
      }
    });
    if (complete)
      for (const auto& collector : collectors) pool.give(collector);
    for (const Tally& tally : tallies) counts_ += tally;
    return complete;
  }

  // The key of the rank, from the counts; `pool` is null when it is not complete.
  Ranked<Storage> ranked(Bracket<Storage> bracket, const Pool<Storage>* pool) {
    const auto low_end = static_cast<Storage>(bracket.low - (bracket.low != 0));
    std::int64_t rank = request_.remove;
    if (rank <= counts_.below) return by_histograms({0, low_end}, rank);
    rank -= counts_.below;
    if (rank <= counts_.at_low) return {bracket.low, counts_.at_low, counts_.at_low - rank};
    rank -= counts_.at_low;
    if (rank <= counts_.inside) {
      const Bracket<Storage> between = {static_cast<Storage>(bracket.low + 1), static_cast<Storage>(bracket.high - 1)};
      if (!pool) return by_histograms(between, rank);
      return narrow(between, rank, [&](Bracket<Storage> range, int shift, std::int64_t* bins) {
        pool->histogram(range, shift, bins);
      });
    }
    rank -= counts_.inside;
    if (rank <= counts_.at_high) return {bracket.high, counts_.at_high, counts_.at_high - rank};
    return by_histograms({static_cast<Storage>(bracket.high + 1), Number<dtype>::infinity}, rank - counts_.at_high);
  }

  Ranked<Storage> by_histograms(Bracket<Storage> range, std::int64_t rank) {
    return narrow(range, rank, [&](Bracket<Storage> within, int shift, std::int64_t* bins) {
      constexpr std::size_t size = std::size_t{1} << rank_bits;
      std::vector<std::vector<std::int64_t>> own(static_cast<std::size_t>(threads_), std::vector<std::int64_t>(size));
      each(threads_, true, false, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
        loops_.histogram(x, n, candidates(a, start), within, shift, own[static_cast<std::size_t>(t)].data());
      });
      for (const auto& some : own)
        for (std::size_t i = 0; i < size; ++i) bins[i] += some[i];
    });
  }

  // How many candidates equal to the key lie before each part.
  std::vector<std::int64_t> equal_before(Storage key) {
    std::vector<std::int64_t> before(static_cast<std::size_t>(threads_) + 1);
    each(threads_, false, false, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      if (t + 1 < threads_)  // nobody comes behind the last part
        before[static_cast<std::size_t>(t) + 1] += loops_.count_equal(x, n, candidates(a, start), key);
    });
    std::partial_sum(before.begin(), before.end(), before.begin());
    return before;
  }

  void mark(Cut<Storage> cut, Ranked<Storage> found) {
    std::vector<std::int64_t> left(static_cast<std::size_t>(threads_) + 1, 0);
    if (found.kept_equal > 0) {
      left = equal_before(cut.key);
      for (std::int64_t& n : left) n = std::max<std::int64_t>(0, found.kept_equal - n);
    }
    each(threads_, false, request_.zero, [&](int t, std::size_t a, std::int64_t start, Storage* x, std::int64_t n) {
      loops_.mark(x, n, candidates(a, start), cut, &left[static_cast<std::size_t>(t)], request_.out[a] + start / block,
                  request_.regrow, request_.zero);
    });
  }

  Threshold nan_found() {
    Threshold result;
    result.nan_array = static_cast<std::int64_t>(arrays_.size());
    std::vector<std::int64_t> first(static_cast<std::size_t>(threads_), result.nan_array);
    each(threads_, true, false, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      auto& mine = first[static_cast<std::size_t>(t)];
      for (std::int64_t i = 0; i < n && static_cast<std::int64_t>(a) < mine; ++i)
        if ((candidates(a, start).word(i / block) >> i % block & 1) && magnitude_key(x[i]) > Number<dtype>::infinity)
          mine = static_cast<std::int64_t>(a);
    });
    for (const std::int64_t a : first) result.nan_array = std::min(result.nan_array, a);
    return result;
  }

  const Arrays& arrays_;
  const Request& request_;
  Blocks blocks_;
  int threads_;
  const Loops<Storage>& loops_;
  Tally counts_;
};

void check(const Arrays& arrays, const Request& request) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  const auto fits = [&](std::size_t masks) { return masks == 0 || masks == arrays.size(); };
  if (!fits(request.given.size()) || !fits(request.out.size()))
    throw std::invalid_argument("Expected one mask for each array.");
  if (request.zero && request.out.empty()) throw std::invalid_argument("Expected `out` where `zero` is asked for.");
}

}  // namespace

Threshold select(const Arrays& arrays, const Request& request, Dtype dtype, int threads) {
  check(arrays, request);
  return with_dtype(dtype, [&](auto constant) {
    return Selection<decltype(constant)::value>(arrays, request, threads).run();
  });
}

}  // namespace autoarch
