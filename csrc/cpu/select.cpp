// Exact selection in two passes over the weights.
//
//   sample ─► bracket low < high around the rank ─► tally: counts of both sides, keys between are collected ─┐
//   words, zeros ◄─ mark: compare with the key ◄─ equals before each part, if some are kept ◄─ key of the rank ◄┘
//
// A rank that is not between may be at the bracket's ends, where many keys are equal: they are counted in a pass of
// their own. A bracket that misses, or more keys between than there is room for, is seen in the counts; then another
// sample is tried, and at last histograms over the weights themselves find the key (`narrow`): slower, never less
// exact.
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

void add_up(const std::vector<std::vector<std::int64_t>>& each, std::int64_t* bins) {
  for (const auto& some : each)
    for (std::size_t i = 0; i < some.size(); ++i) bins[i] += some[i];
}

// Room for the keys between: threads take piece after piece, so it does not matter whose part they are in.
template <typename Storage>
class Pool {
 public:
  static constexpr std::int64_t piece = tuning::piece_batches * batch<Storage>;
  static constexpr std::int64_t margin = batch<Storage> + 2 * block;

  Pool(std::int64_t keys, int threads)
      : pieces_(keys / (piece - margin) + threads + 1),
        memory_(new Storage[static_cast<std::size_t>(pieces_ * piece)]),
        used_(static_cast<std::size_t>(pieces_)),
        owner_(static_cast<std::size_t>(pieces_)) {}

  // A piece for thread t; false when there is none.
  bool take(int t, Collector<Storage>* into) {
    const std::int64_t p = next_.fetch_add(1, std::memory_order_relaxed);
    if (p >= pieces_) return false;
    owner_[static_cast<std::size_t>(p)] = t;
    into->next = memory_.get() + p * piece;
    into->end = into->next + piece - margin;
    return true;
  }
  void give(const Collector<Storage>& from) {
    if (!from.end) return;
    const std::int64_t p = (from.end - memory_.get()) / piece;
    used_[static_cast<std::size_t>(p)] = from.next - (memory_.get() + p * piece);
  }

  void histogram(Bracket<Storage> range, int shift, std::int64_t* bins, Team& team, int threads) const {
    std::vector<std::vector<std::int64_t>> own(static_cast<std::size_t>(threads), std::vector<std::int64_t>(rank_bins));
    team.run(threads, [&](int t) {
      for (std::int64_t p = pieces_ * t / threads; p < pieces_ * (t + 1) / threads; ++p)
        histogram_of_keys(memory_.get() + p * piece, used_[static_cast<std::size_t>(p)], range, shift,
                          own[static_cast<std::size_t>(t)].data());
    });
    add_up(own, bins);
  }

  // Adds to counts[t] how many keys of thread t equal this one.
  void count_equal(Storage key, std::int64_t* counts) const {
    for (std::int64_t p = 0; p < pieces_; ++p) {
      const Storage* keys = memory_.get() + p * piece;
      counts[owner_[static_cast<std::size_t>(p)]] += std::count(keys, keys + used_[static_cast<std::size_t>(p)], key);
    }
  }

 private:
  std::int64_t pieces_;
  std::unique_ptr<Storage[]> memory_;  // not initialised: pages that stay unused are never touched
  std::vector<std::int64_t> used_;
  std::vector<int> owner_;
  std::atomic<std::int64_t> next_{0};
};

// A hint to the processor that this address is about to be read.
inline void prefetch(const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  (void)address;
#endif
}

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
  static constexpr Storage top = magnitude_key(static_cast<Storage>(~Storage{0}));

  Selection(const Arrays& arrays, const Request& request, int threads)
      : arrays_(arrays),
        request_(request),
        blocks_(arrays),
        threads_(useful_threads(blocks_.elements(), threads)),
        team_(threads_),
        loops_(loops<Storage>()) {}

  Threshold run() {
    candidates_ = count_candidates();
    if (request_.remove < 0 || request_.remove > candidates_)
      throw std::invalid_argument("Expected `remove` in [0, " + std::to_string(candidates_) + "], got " +
                                  std::to_string(request_.remove) + ".");
    Ranked<Storage> found = search();
    if (nan_ && !request_.keep_nan) return nan_found();
    Threshold result;
    result.numbers = candidates_ - (nan_ ? count_above(Number<dtype>::infinity) : 0);
    if (request_.remove > result.numbers) return result;
    result.key = found.key, result.kept_equal = found.kept_equal;
    if (!request_.out.empty()) mark({found.key, request_.remove == 0}, found);
    return result;
  }

 private:
  Candidates candidates(std::size_t array, std::int64_t start) const {
    if (request_.given.empty()) return {};
    return {request_.given[array] + start / block, request_.regrow ? ~std::uint64_t{0} : 0};
  }

  // The first block of a thread's part; a window is not cut, so that a part is the same elements in every order.
  std::int64_t part(int t) const {
    const std::int64_t b = blocks_.count() * t / threads_;
    if (b == blocks_.count()) return b;
    const std::size_t a = blocks_.array_of(b);
    const std::int64_t unit = arrays_[a].layout.dims == 0 ? 1 : Window<Storage>::longest(arrays_[a]) / block;
    return b - (b - blocks_.first(a)) % unit;
  }

  // f(thread, array, start, data, n) for every run of elements: in logical order, or as they lie in memory.
  template <typename F>
  void each(bool any_order, F&& f) {
    const auto as_it_lies = [&](std::size_t a) {
      return arrays_[a].layout.dims == 0 || (any_order && request_.given.empty() && is_dense(arrays_[a].layout));
    };
    team_.run(threads_, [&](int t) {
      Window<Storage> window(arrays_);
      const auto longest = [&](std::size_t a) {
        return as_it_lies(a) ? arrays_[a].n : Window<Storage>::longest(arrays_[a]);
      };
      blocks_.spans(part(t), part(t + 1), longest, [&](std::size_t a, std::int64_t start, std::int64_t n) {
        const auto memory = static_cast<const Storage*>(arrays_[a].data) + start;
        f(t, a, start, as_it_lies(a) ? memory : window.read(a, start, n), n);
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

  // The key of the rank that is asked for. With a NaN among the candidates it only sets `nan_`, unless NaN are kept.
  Ranked<Storage> search() {
    if (request_.remove == 0 || blocks_.elements() <= tuning::collect_all) {
      Ranked<Storage> found;
      in_bracket({0, request_.remove == 0 ? Storage{1} : top}, &found);
      return found;
    }
    for (const tuning::Sampling& sampling : tuning::samplings) {
      Ranked<Storage> found;
      if (in_bracket(choose_bracket(sampling), &found) || (nan_ && !request_.keep_nan)) return found;
    }
    return by_histograms({0, top}, request_.remove);
  }

  // A pass with the bracket low < high; true if the rank is in [low, high] and was found.
  bool in_bracket(Bracket<Storage> bracket, Ranked<Storage>* found) {
    Pool<Storage> pool(pool_keys(), threads_);
    Tally<Storage> counts;
    const bool complete = tally(bracket, pool, &counts);
    nan_ = counts.nan;
    if (request_.remove == 0 || (nan_ && !request_.keep_nan)) return true;
    const std::int64_t rank = request_.remove;
    if (rank <= counts.to_low) return at_atom(bracket.low, counts.to_low - rank, found);
    if (rank > candidates_ - counts.from_high) {
      const std::int64_t above = count_above(bracket.high);
      return candidates_ - above >= rank && at_atom(bracket.high, candidates_ - above - rank, found);
    }
    if (!complete) return false;
    const Bracket<Storage> between = {static_cast<Storage>(bracket.low + 1), static_cast<Storage>(bracket.high - 1)};
    *found = narrow(between, rank - counts.to_low, [&](Bracket<Storage> range, int shift, std::int64_t* bins) {
      pool.histogram(range, shift, bins, team_, threads_);
    });
    if (in_parts()) {  // else the collected do not tell what lies before a part
      start_equal(found->key);
      pool.count_equal(found->key, equal_before_.data() + 1);
      std::partial_sum(equal_before_.begin(), equal_before_.end(), equal_before_.begin());
    }
    return true;
  }

  // Whether each thread meets the elements of its part in `tally`, in whatever order.
  bool in_parts() const {
    const auto whole = [](const Array& array) { return array.layout.dims == 0 || Window<Storage>::whole_rows(array); };
    return !request_.given.empty() || std::all_of(arrays_.begin(), arrays_.end(), whole);
  }

  // `kept`: how many keys up to this one are kept. The rank is at this key if so many equal it.
  bool at_atom(Storage key, std::int64_t kept, Ranked<Storage>* found) {
    const std::vector<std::int64_t>& before = equal_before(key);
    *found = {key, before.back(), kept};
    return kept < before.back();
  }

  Bracket<Storage> choose_bracket(const tuning::Sampling& sampling) {
    const std::vector<Storage> keys = sample(sampling);
    const auto n = static_cast<double>(keys.size());
    const double share = static_cast<double>(request_.remove) / static_cast<double>(candidates_);
    const double reach = tuning::bracket_deviations * (std::sqrt(share * (1 - share) * n) + 1);
    const std::int64_t ranks[2] = {static_cast<std::int64_t>(std::floor(share * n - reach)),
                                   static_cast<std::int64_t>(std::ceil(share * n + reach))};
    Storage ends[2] = {0, top};
    const int both = threads_ > 1 ? 2 : 1;
    team_.run(both, [&](int t) {
      for (int i = t; i < 2; i += both)
        if (ranks[i] >= 1 && ranks[i] <= static_cast<std::int64_t>(keys.size())) ends[i] = key_of(keys, ranks[i]);
    });
    ends[0] = std::min(ends[0], Number<dtype>::infinity);  // `tally` sees a NaN above `low` only
    if (ends[0] == ends[1]) ++ends[1];                     // an atom; `top` itself is a NaN that no rank is at
    return {ends[0], ends[1]};
  }

  static Storage key_of(const std::vector<Storage>& keys, std::int64_t rank) {
    const auto count = [&](Bracket<Storage> range, int shift, std::int64_t* bins) {
      histogram_of_keys(keys.data(), static_cast<std::int64_t>(keys.size()), range, shift, bins);
    };
    return narrow(Bracket<Storage>{0, top}, rank, count).key;
  }

  // A run of neighbours in an array, inside of a block.
  struct Run {
    std::size_t array;
    std::int64_t start, end;
  };

  // Keys of candidates in random places: one run in each of equal stretches of blocks, the same in every call.
  std::vector<Storage> sample(const tuning::Sampling& sampling) {
    const std::int64_t runs = std::clamp(blocks_.elements() / 2048, sampling.runs_min, sampling.runs_max);
    std::vector<std::vector<Storage>> found(static_cast<std::size_t>(threads_));
    team_.run(threads_, [&](int t) {
      const std::int64_t end = runs * (t + 1) / threads_;
      auto& mine = found[static_cast<std::size_t>(t)];
      mine.reserve(static_cast<std::size_t>((runs / threads_ + 1) * sampling.run));
      std::vector<Run> asked(tuning::runs_asked);
      for (std::int64_t i = runs * t / threads_; i < end; i += tuning::runs_asked) {
        const auto some = static_cast<std::size_t>(std::min(tuning::runs_asked, end - i));
        for (std::size_t j = 0; j < some; ++j) asked[j] = ask(i + static_cast<std::int64_t>(j), runs, sampling.run);
        for (std::size_t j = 0; j < some; ++j) read(asked[j], mine);
      }
    });
    for (std::size_t t = 1; t < found.size(); ++t) found[0].insert(found[0].end(), found[t].begin(), found[t].end());
    return std::move(found[0]);
  }

  const Storage* element(std::size_t array, std::int64_t i) const {
    return static_cast<const Storage*>(arrays_[array].data) + offset_of(arrays_[array].layout, i);
  }

  // `length` neighbours in a random block of the i-th of `runs` stretches; the memory is asked to send them.
  Run ask(std::int64_t i, std::int64_t runs, std::int64_t length) const {
    const std::uint64_t random = scrambled(static_cast<std::uint64_t>(i));
    const double place =
        (static_cast<double>(i) + static_cast<double>(random >> 11) * 0x1p-53) / static_cast<double>(runs);
    const auto b =
        std::min(blocks_.count() - 1, static_cast<std::int64_t>(place * static_cast<double>(blocks_.count())));
    const std::size_t a = blocks_.array_of(b);
    const auto first = static_cast<std::int64_t>(random & 63) / length * length;
    const std::int64_t start = std::min((b - blocks_.first(a)) * block + first, arrays_[a].n);
    const std::int64_t end = std::min(start + length, arrays_[a].n);
    if (start < end) prefetch(element(a, start));
    return {a, start, end};
  }

  void read(const Run& run, std::vector<Storage>& into) const {
    const std::uint64_t word = candidates(run.array, run.start / block * block).word(0);
    for (std::int64_t i = run.start; i < run.end; ++i)
      if (word >> i % block & 1) into.push_back(magnitude_key(*element(run.array, i)));
  }

  // Whether every key between found room.
  bool tally(Bracket<Storage> bracket, Pool<Storage>& pool, Tally<Storage>* counts) {
    std::vector<Tally<Storage>> tallies(static_cast<std::size_t>(threads_));
    std::vector<Collector<Storage>> collectors(static_cast<std::size_t>(threads_));
    std::vector<std::vector<Storage>> discarded(static_cast<std::size_t>(threads_));
    std::atomic<bool> complete{true};
    each(true, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      const auto mine = static_cast<std::size_t>(t);
      for (std::int64_t done = 0;;) {
        done += loops_.tally(x + done, n - done, candidates(a, start + done), bracket, Number<dtype>::infinity,
                             &tallies[mine], &collectors[mine]);
        if (done == n) break;
        if (discarded[mine].empty()) pool.give(collectors[mine]);
        if (discarded[mine].empty() && pool.take(t, &collectors[mine])) continue;
        complete = false;  // only the counts are of use now
        discarded[mine].resize(static_cast<std::size_t>(Pool<Storage>::piece));
        collectors[mine] = {discarded[mine].data(),
                            discarded[mine].data() + Pool<Storage>::piece - Pool<Storage>::margin};
      }
    });
    for (std::size_t t = 0; t < collectors.size(); ++t)
      if (discarded[t].empty()) pool.give(collectors[t]);
    for (const Tally<Storage>& each : tallies) {
      counts->to_low += each.to_low, counts->from_high += each.from_high;
      counts->nan = counts->nan || each.nan;
    }
    return complete;
  }

  std::int64_t count_above(Storage key) {
    std::vector<std::int64_t> above(static_cast<std::size_t>(threads_));
    each(true, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      above[static_cast<std::size_t>(t)] += loops_.count_above(x, n, candidates(a, start), key);
    });
    return std::accumulate(above.begin(), above.end(), std::int64_t{0});
  }

  Ranked<Storage> by_histograms(Bracket<Storage> range, std::int64_t rank) {
    return narrow(range, rank, [&](Bracket<Storage> within, int shift, std::int64_t* bins) {
      std::vector<std::vector<std::int64_t>> own(static_cast<std::size_t>(threads_),
                                                 std::vector<std::int64_t>(rank_bins));
      each(true, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
        loops_.histogram(x, n, candidates(a, start), within, shift, own[static_cast<std::size_t>(t)].data());
      });
      add_up(own, bins);
    });
  }

  void start_equal(Storage key) {
    equal_key_ = key;
    equal_before_.assign(static_cast<std::size_t>(threads_) + 1, 0);
  }

  // How many candidates equal to the key lie before each part, and in all; remembered from where it was counted first.
  const std::vector<std::int64_t>& equal_before(Storage key) {
    if (!equal_before_.empty() && equal_key_ == key) return equal_before_;
    start_equal(key);
    each(false, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
      equal_before_[static_cast<std::size_t>(t) + 1] += loops_.count_equal(x, n, candidates(a, start), key);
    });
    std::partial_sum(equal_before_.begin(), equal_before_.end(), equal_before_.begin());
    return equal_before_;
  }

  void mark(Cut<Storage> cut, Ranked<Storage> found) {
    std::vector<std::int64_t> left(static_cast<std::size_t>(threads_) + 1, 0);
    if (found.kept_equal > 0)
      for (std::size_t t = 0; t < left.size(); ++t)
        left[t] = std::max<std::int64_t>(0, found.kept_equal - equal_before(cut.key)[t]);
    auto windows = Window<Storage>::for_writing(arrays_, threads_);
    team_.run(threads_, [&](int t) {
      Window<Storage>& window = windows[static_cast<std::size_t>(t)];
      const auto longest = [&](std::size_t a) { return Window<Storage>::longest(arrays_[a]); };
      blocks_.spans(part(t), part(t + 1), longest, [&](std::size_t a, std::int64_t start, std::int64_t n) {
        mark_span(window, a, start, n, cut, &left[static_cast<std::size_t>(t)]);
      });
    });
  }

  void mark_span(Window<Storage>& window, std::size_t a, std::int64_t start, std::int64_t n, Cut<Storage> cut,
                 std::int64_t* left) {
    Storage* const x = window.read(a, start, n);
    Storage* const memory = request_.given.empty() ? window.in_place(a, start) : nullptr;
    // Where the key alone decides, a strided window is cleared as it lies, and the copy is only looked at.
    const bool once = !memory || memory == x || (*left > 0 && loops_.count_equal(memory, n, {}, cut.key) > 0);
    loops_.mark(x, n, candidates(a, start), cut, left, request_.out[a] + start / block, request_.regrow,
                request_.zero && once);
    if (!request_.zero) return;
    if (once)
      window.write(a, start, n);
    else
      loops_.clear(memory, n, cut);
  }

  Threshold nan_found() {
    Threshold result;
    result.nan_array = static_cast<std::int64_t>(arrays_.size());
    std::vector<std::int64_t> first(static_cast<std::size_t>(threads_), result.nan_array);
    each(true, [&](int t, std::size_t a, std::int64_t start, const Storage* x, std::int64_t n) {
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
  Team team_;
  const Loops<Storage>& loops_;
  std::int64_t candidates_ = 0;
  bool nan_ = false;
  Storage equal_key_ = 0;
  std::vector<std::int64_t> equal_before_;
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
  return with_dtype(
      dtype, [&](auto constant) { return Selection<decltype(constant)::value>(arrays, request, threads).run(); });
}

}  // namespace autoarch
