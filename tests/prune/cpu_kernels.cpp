// The CPU kernels without Python, for the sanitizers: each instruction set against plain C++, selections against a
// sort. Prints "ok" and exits 0, or says what differs.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/instruction_set.h"
#include "cpu/loops.h"
#include "numeric.h"
#include "cpu/targets.h"
#include "prune.h"

using namespace autoarch;

namespace {

std::atomic<std::int64_t> allocations_left{-1};  // negative: any number

}  // namespace

void* operator new(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left.fetch_sub(1) <= 0) {
    allocations_left = 0;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(bytes + (bytes == 0))) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

std::mt19937_64 random_bits(1);

std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_bits() % static_cast<std::uint64_t>(n)); }

void expect(bool right, const char* what, std::int64_t n) {
  if (right) return;
  std::printf("%s differs at n = %lld\n", what, static_cast<long long>(n));
  std::exit(1);
}

// Few distinct values, so that many are equal; never NaN.
template <typename Storage>
std::vector<Storage> values(std::int64_t n, int levels) {
  std::vector<Storage> x(static_cast<std::size_t>(n));
  for (Storage& each : x) {
    each = static_cast<Storage>(below(levels) << (sizeof(Storage) * 8 - 10));
    if (below(2)) each = static_cast<Storage>(each | Storage{1} << (sizeof(Storage) * 8 - 1));
  }
  return x;
}

std::vector<std::uint64_t> words(std::int64_t n) {
  std::vector<std::uint64_t> result(static_cast<std::size_t>((n + 63) / 64));
  for (auto& word : result) word = random_bits() | random_bits();
  if (n % 64) result.back() &= ~std::uint64_t{0} >> (64 - n % 64);
  return result;
}

template <typename Storage>
void compare_loops(const Loops<Storage>& some, const Loops<Storage>& plain, Storage infinity) {
  constexpr Storage top = magnitude_key(static_cast<Storage>(~Storage{0}));
  for (int round = 0; round < 60; ++round) {
    const std::int64_t n = 1 + below(400);
    auto x = values<Storage>(n, 200);
    const bool nan = round % 4 == 0;
    if (nan) x[static_cast<std::size_t>(below(n))] = static_cast<Storage>(infinity + 1);
    const auto given = words(n);
    const Candidates candidates =
        round % 3 ? Candidates{given.data(), round % 3 == 1 ? 0 : ~std::uint64_t{0}} : Candidates{};
    Bracket<Storage> bracket = {magnitude_key(x[static_cast<std::size_t>(below(n))]),
                                magnitude_key(x[static_cast<std::size_t>(below(n))])};
    if (bracket.low > bracket.high) std::swap(bracket.low, bracket.high);
    if (round % 8 == 0) bracket.high = top;  // above every NaN but one
    bracket.low = std::min(bracket.low, infinity);
    bracket.high = static_cast<Storage>(bracket.high + (bracket.low == bracket.high));
    std::vector<Storage> inside[2] = {std::vector<Storage>(1024), std::vector<Storage>(1024)};
    Tally<Storage> tallies[2];
    for (int i = 0; i < 2; ++i) {
      Collector<Storage> into = {inside[i].data(), inside[i].data() + 800};
      const auto done = (i ? plain : some).tally(x.data(), n, candidates, bracket, infinity, &tallies[i], &into);
      expect(done == n, "tally's end", n);
      inside[i].resize(static_cast<std::size_t>(into.next - inside[i].data()));
    }
    expect(inside[0] == inside[1] && tallies[0].to_low == tallies[1].to_low &&
               tallies[0].from_high == tallies[1].from_high && tallies[0].nan == tallies[1].nan,
           "tally", n);
    if (!candidates.given) expect(tallies[1].nan == nan, "NaN", n);
    expect(some.count_equal(x.data(), n, candidates, bracket.low) ==
                   plain.count_equal(x.data(), n, candidates, bracket.low) &&
               some.count_above(x.data(), n, candidates, bracket.low) ==
                   plain.count_above(x.data(), n, candidates, bracket.low),
           "count", n);
    std::vector<std::int64_t> bins[2] = {std::vector<std::int64_t>(1 << 16), std::vector<std::int64_t>(1 << 16)};
    const int shift = std::max(0, static_cast<int>(sizeof(Storage)) * 8 - 12);
    some.histogram(x.data(), n, candidates, bracket, shift, bins[0].data());
    plain.histogram(x.data(), n, candidates, bracket, shift, bins[1].data());
    expect(bins[0] == bins[1], "histogram", n);
    std::vector<Storage> marked[2] = {x, x};
    std::vector<std::uint64_t> out[2] = {given, given};
    for (int i = 0; i < 2; ++i) {
      std::int64_t left = 3;
      (i ? plain : some)
          .mark(marked[i].data(), n, candidates, {bracket.low, round % 7 == 0}, &left, out[i].data(), round % 2 == 0,
                true);
    }
    expect(marked[0] == marked[1] && out[0] == out[1], "mark", n);
    std::vector<Storage> applied[2] = {x, x};
    some.apply(applied[0].data(), n, given.data());
    plain.apply(applied[1].data(), n, given.data());
    expect(applied[0] == applied[1], "apply", n);
    for (std::int64_t i = 0; i < n; ++i)
      expect(applied[1][static_cast<std::size_t>(i)] ==
                 (given[static_cast<std::size_t>(i / 64)] >> i % 64 & 1 ? x[static_cast<std::size_t>(i)] : 0),
             "apply", n);
    expect(some.count_nonzero(x.data(), n) == plain.count_nonzero(x.data(), n), "count_nonzero", n);
    expect(some.count_ones(given.data(), static_cast<std::int64_t>(given.size())) ==
               plain.count_ones(given.data(), static_cast<std::int64_t>(given.size())),
           "count_ones", n);
  }
}

// Runs that are longer than a batch, where blocks are taken side by side and counters of 16 bits are emptied; against
// one element after the other.
template <typename Storage>
void compare_long(const Loops<Storage>& some, Storage infinity) {
  const std::int64_t n = 64 * ((1 << 13) + 300) + 17;
  auto x = values<Storage>(n, 200);
  const auto given = words(n);
  const Bracket<Storage> bracket = {magnitude_key(x[0]),
                                    static_cast<Storage>(magnitude_key(x[0]) + 1 + (infinity >> 5))};
  for (int masked = 0; masked < 2; ++masked) {
    const Candidates candidates = masked ? Candidates{given.data(), 0} : Candidates{};
    std::vector<Storage> inside(static_cast<std::size_t>(n + 64)), expected, found;
    Tally<Storage> tally, counted;
    Collector<Storage> into = {inside.data(), inside.data() + n};
    expect(some.tally(x.data(), n, candidates, bracket, infinity, &tally, &into) == n, "tally's end", n);
    found.assign(inside.data(), into.next);
    auto marked = x;
    std::vector<std::uint64_t> out(given.size());
    std::int64_t left = 5, kept = 5;
    some.mark(marked.data(), n, candidates, {bracket.low, false}, &left, out.data(), false, true);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool candidate = (candidates.word(i / 64) >> i % 64 & 1) != 0;
      const Storage key = magnitude_key(x[at]);
      if (candidate) counted.to_low += key <= bracket.low, counted.from_high += key >= bracket.high;
      if (candidate && key > bracket.low && key < bracket.high) expected.push_back(key);
      const bool stays = candidate && (key > bracket.low || (key == bracket.low && kept-- > 0));
      expect((out[static_cast<std::size_t>(i / 64)] >> i % 64 & 1) == stays && marked[at] == (stays ? x[at] : 0),
             "a long mark", n);
    }
    std::sort(expected.begin(), expected.end()), std::sort(found.begin(), found.end());
    expect(found == expected && tally.to_low == counted.to_low && tally.from_high == counted.from_high && !tally.nan,
           "a long tally", n);
  }
}

template <typename Storage>
void compare_instruction_sets(Storage infinity) {
  compare_loops(loops<Storage>(), loops_plain<Storage>(), infinity);
  compare_long(loops_plain<Storage>(), infinity);
#if AUTOARCH_X86_TARGETS
  if (has(InstructionSet::avx2)) {
    compare_loops(loops_avx2<Storage>(), loops_plain<Storage>(), infinity);
    compare_long(loops_avx2<Storage>(), infinity);
  }
  if (has(InstructionSet::avx512)) {
    compare_loops(loops_avx512<Storage>(), loops_plain<Storage>(), infinity);
    compare_long(loops_avx512<Storage>(), infinity);
  }
#endif
}

template <Dtype dtype>
void select_against_sort(std::int64_t n, int levels, int threads, bool masked, bool regrow) {
  using Storage = typename Number<dtype>::Storage;
  auto x = values<Storage>(n, levels);
  const std::int64_t cut = below(n + 1);
  auto given_a = words(cut), given_b = words(n - cut);
  std::vector<std::int64_t> order;
  const auto bit = [&](std::int64_t i) {
    return (i < cut ? given_a[static_cast<std::size_t>(i / 64)] >> i % 64
                    : given_b[static_cast<std::size_t>((i - cut) / 64)] >> (i - cut) % 64) &
           1;
  };
  for (std::int64_t i = 0; i < n; ++i)
    if (!masked || (bit(i) != 0) != regrow) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
    const Storage a = magnitude_key(x[static_cast<std::size_t>(i)]), b = magnitude_key(x[static_cast<std::size_t>(j)]);
    return a != b ? a < b : i > j;
  });
  Request request;
  request.remove = order.empty() ? 0 : below(static_cast<std::int64_t>(order.size()) + 1);
  std::vector<bool> keep(static_cast<std::size_t>(n), regrow || !masked);
  for (std::size_t r = 0; r < order.size(); ++r)
    keep[static_cast<std::size_t>(order[r])] = static_cast<std::int64_t>(r) >= request.remove;
  if (masked) request.given = {given_a.data(), given_b.data()};
  std::vector<std::uint64_t> out_a(given_a.size()), out_b(given_b.size());
  request.regrow = masked && regrow, request.out = {out_a.data(), out_b.data()}, request.zero = true;
  const auto before = x;
  Array a, b;
  a.data = x.data(), a.n = cut, b.data = x.data() + cut, b.n = n - cut;
  select({a, b}, request, dtype, threads);
  given_a = out_a, given_b = out_b;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool kept = keep[static_cast<std::size_t>(i)];
    expect((bit(i) != 0) == kept && x[static_cast<std::size_t>(i)] == (kept ? before[static_cast<std::size_t>(i)] : 0),
           "select", n);
  }
}

template <Dtype dtype>
void selections(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const bool large = round % 8 == 7;
    select_against_sort<dtype>(large ? 270000 + below(100000) : 1 + below(3000), round % 2 ? 500 : 3, 1 + round % 3,
                               round % 3 != 0, round % 5 < 2 && round % 3 != 0);
  }
}

// A matrix transposed in memory and one in channels_last: both are worked on in copies, which take memory.
struct Strided {
  std::vector<std::uint32_t> memory = values<std::uint32_t>(2 * 512 * 640, 300);
  Arrays arrays = {Array{memory.data(), 512 * 640, {2, {640, 512}, {1, 640}}},
                   Array{memory.data() + 512 * 640, 512 * 640, {3, {512, 64, 10}, {640, 1, 64}}}};
};

// Lets each allocation fail in turn. A call throws and has written nothing, or makes do without.
template <typename F>
void without_memory(const char* what, F&& call) {
  Strided data;
  const auto before = data.memory;
  for (std::int64_t have = 0;; ++have) {
    data.memory = before;
    allocations_left = have;
    bool thrown = false;
    try {
      call(data.arrays);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    const bool enough = allocations_left > 0;
    allocations_left = -1;
    if (thrown) expect(data.memory == before, what, have);
    if (enough) return expect(!thrown, what, have);
  }
}

void calls_without_memory() {
  const Groups rows = {1, 640, 512};
  const std::vector<std::uint64_t> none(512 * 640 / 64);
  const std::vector<double> norms(640, 1e-30);
  std::vector<std::uint64_t> a(none), b(none);
  Request request;
  request.remove = 300000, request.out = {a.data(), b.data()}, request.zero = true;
  without_memory("select", [&](const Arrays& arrays) { select(arrays, request, Dtype::float32, 3); });
  without_memory("apply_masks",
                 [&](const Arrays& arrays) { apply_masks(arrays, {none.data(), none.data()}, Dtype::float32, 3); });
  without_memory("soft_threshold",
                 [&](const Arrays& arrays) { soft_threshold(arrays, {1e9, 1e9}, Dtype::float32, 3); });
  without_memory("group_soft_threshold", [&](const Arrays& arrays) {
    group_soft_threshold(arrays[0], rows, norms.data(), 1, Dtype::float32, 3);
  });
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 24;
  compare_instruction_sets<std::uint16_t>(Number<Dtype::bfloat16>::infinity);
  compare_instruction_sets<std::uint32_t>(Number<Dtype::float32>::infinity);
  compare_instruction_sets<std::uint64_t>(Number<Dtype::float64>::infinity);
  selections<Dtype::float32>(rounds);
  selections<Dtype::float64>(rounds);
  selections<Dtype::bfloat16>(rounds);
  calls_without_memory();
  std::puts("ok");
}
