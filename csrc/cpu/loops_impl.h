// The loops of loops.h for one instruction set `Simd` (simd_*.h), in blocks of 64 elements, a mask word each:
// comparisons give 64 bits, the rest is arithmetic on words.
//
// loops_*.cpp include this under their target, so everything here is a member of a template on `Simd`: an inline
// function that two targets share would be compiled for either.
#pragma once

#include <cstdint>
#include <cstring>

#include "../ordered_bits.h"
#include "../tuning.h"
#include "loops.h"

namespace autoarch {

template <typename Simd, typename Storage>
struct LoopsOf {
  static constexpr std::uint64_t all = ~std::uint64_t{0};

#if defined(__GNUC__)
  static int ones(std::uint64_t word) { return __builtin_popcountll(word); }
  static int lowest(std::uint64_t word) { return __builtin_ctzll(word); }
#else
  static int ones(std::uint64_t word) {
    int count = 0;
    for (; word; word &= word - 1) ++count;
    return count;
  }
  static int lowest(std::uint64_t word) { return ones((word & (~word + 1)) - 1); }
#endif

  // Calls f(block of 64 elements, its number, which bits exist). A short last block is a copy, padded with zeros.
  template <typename F>
  static void blocks(const Storage* x, std::int64_t n, F&& f) {
    const std::int64_t whole = n / 64;
    for (std::int64_t b = 0; b < whole; ++b) f(x + 64 * b, b, all);
    if (n % 64) {
      Storage tail[64] = {};
      std::memcpy(tail, x + 64 * whole, static_cast<std::size_t>(n % 64) * sizeof(Storage));
      f(static_cast<const Storage*>(tail), whole, all >> (64 - n % 64));
    }
  }

  // Calls f(first element of a block) for the blocks of the batch at x: a few pages side by side rather than one after
  // the other, since a core waits less for memory that it reads in several places. Those of the next batch are asked for
  // meanwhile: the processor itself does not look beyond the end of a page.
  template <typename F>
  static void side_by_side(const Storage* x, F&& f) {
    constexpr std::int64_t stretch = batch<Storage> / tuning::streams;
    for (std::int64_t i = 0; i < stretch; i += 64)
      for (std::int64_t start = i; start < batch<Storage>; start += stretch) {
        prefetch_block(x + start + batch<Storage>);
        f(start);
      }
  }

  static void prefetch_block(const Storage* x) {
#if defined(__GNUC__)
    for (std::size_t i = 0; i < 64; i += 64 / sizeof(Storage)) __builtin_prefetch(x + i);
#else
    (void)x;
#endif
  }

  static std::uint64_t at_least(const Storage* x, Storage key) {
    return key == 0 ? all : Simd::above(x, static_cast<Storage>(key - 1));
  }

  static std::int64_t tally(const Storage* x, std::int64_t n, Candidates candidates, Bracket<Storage> bracket,
                            Storage infinity, Tally<Storage>* result, Collector<Storage>* into) {
    typename Simd::template Sieve<Storage> sieve(bracket.low, bracket.high, infinity, into->next);
    std::int64_t done = 0;
    for (; done + batch<Storage> <= n && sieve.next < into->end; done += batch<Storage>)
      side_by_side(x + done, [&](std::int64_t i) { sieve(x + done + i, candidates.word((done + i) / 64)); });
    for (; done + 64 <= n && sieve.next < into->end; done += 64) sieve(x + done, candidates.word(done / 64));
    if (n - done < 64 && done < n && sieve.next < into->end) {
      Storage tail[64] = {};
      std::memcpy(tail, x + done, static_cast<std::size_t>(n - done) * sizeof(Storage));
      sieve(tail, candidates.word(done / 64) & all >> (64 - (n - done)));
      done = n;
    }
    into->next = sieve.next;
    result->to_low += sieve.to_low();
    result->from_high += sieve.from_high();
    result->nan = result->nan || sieve.nan();
    return done;
  }

  static void histogram(const Storage* x, std::int64_t n, Candidates candidates, Bracket<Storage> range, int shift,
                        std::int64_t* bins) {
    const Storage width = static_cast<Storage>(range.high - range.low);
    blocks(x, n, [&](const Storage* part, std::int64_t b, std::uint64_t exist) {
      std::uint64_t in = candidates.word(b) & exist & at_least(part, range.low) & ~Simd::above(part, range.high);
      for (; in; in &= in - 1) {
        const Storage from_low = static_cast<Storage>(magnitude_key(part[lowest(in)]) - range.low);
        if (from_low <= width) ++bins[from_low >> shift];  // read again: somebody else may have written
      }
    });
  }

  static std::int64_t count_equal(const Storage* x, std::int64_t n, Candidates candidates, Storage key) {
    std::int64_t count = 0;
    blocks(x, n, [&](const Storage* part, std::int64_t b, std::uint64_t exist) {
      count += ones(candidates.word(b) & exist & at_least(part, key) & ~Simd::above(part, key));
    });
    return count;
  }

  static std::int64_t count_above(const Storage* x, std::int64_t n, Candidates candidates, Storage key) {
    std::int64_t count = 0;
    blocks(x, n, [&](const Storage* part, std::int64_t b, std::uint64_t exist) {
      count += ones(candidates.word(b) & exist & Simd::above(part, key));
    });
    return count;
  }

  static std::uint64_t first_ones(std::uint64_t word, std::int64_t count) {
    std::uint64_t kept = 0;
    for (; count > 0; --count, word &= word - 1) kept |= word & (~word + 1);
    return kept;
  }

  static std::uint64_t kept_of(const Storage* x, std::uint64_t candidates, const Cut<Storage>& cut,
                               std::int64_t* equal_left) {
    if (cut.everything) return candidates;
    const std::uint64_t above = candidates & Simd::above(x, cut.key);
    if (*equal_left == 0) return above;
    std::uint64_t equal = candidates & ~above & at_least(x, cut.key);
    if (ones(equal) > *equal_left) equal = first_ones(equal, *equal_left);
    *equal_left -= ones(equal);
    return above | equal;
  }

  static void mark(Storage* x, std::int64_t n, Candidates candidates, Cut<Storage> cut, std::int64_t* equal_left,
                   BitsOut out, bool regrow, bool zero) {
    std::int64_t left = *equal_left;
    const std::uint64_t others = regrow ? all : 0;
    const auto mark_block = [&](const Storage* part, std::int64_t b, std::uint64_t exist) {
      const std::uint64_t chosen = candidates.word(b);
      const std::uint64_t keep = kept_of(part, chosen & exist, cut, &left) | (others & ~chosen & exist);
      out[b] = keep;
      if (zero) zero_block(x + 64 * b, keep, exist);
    };
    std::int64_t done = 0;
    for (; left > 0 && done + 64 <= n; done += 64) mark_block(x + done, done / 64, all);
    const bool by_key = zero && !candidates.given && !cut.everything;  // and nothing else decides: in one pass
    for (; by_key && done + batch<Storage> <= n; done += batch<Storage>)
      side_by_side(x + done, [&](std::int64_t i) { out[(done + i) / 64] = Simd::cut(x + done + i, cut.key); });
    for (; done + batch<Storage> <= n; done += batch<Storage>)
      side_by_side(x + done, [&](std::int64_t i) { mark_block(x + done + i, (done + i) / 64, all); });
    blocks(x + done, n - done,
           [&](const Storage* part, std::int64_t b, std::uint64_t exist) { mark_block(part, done / 64 + b, exist); });
    *equal_left = left;
  }

  static void clear(Storage* x, std::int64_t n, Cut<Storage> cut) {
    if (cut.everything) return;
    blocks(x, n, [&](const Storage* part, std::int64_t b, std::uint64_t exist) {
      zero_block(x + 64 * b, Simd::above(part, cut.key), exist);
    });
  }

  static void apply(Storage* x, std::int64_t n, Bits mask) {
    const std::int64_t whole = n / 64;
    for (std::int64_t b = 0; b < whole; ++b)
      if (mask[b] != all) Simd::zero(x + 64 * b, mask[b]);
    if (n % 64) zero_block(x + 64 * whole, mask[whole], all >> (64 - n % 64));
  }

  // In the width of the elements inside a run, so that a vector holds as many counters as elements.
  static std::int64_t count_nonzero(const Storage* x, std::int64_t n) {
    std::int64_t total = 0;
    for (std::int64_t start = 0; start < n; start += tuning::count_block) {
      const std::int64_t end = n - start < tuning::count_block ? n : start + tuning::count_block;
      Storage count = 0;
      for (std::int64_t i = start; i < end; ++i) count = static_cast<Storage>(count + (magnitude_key(x[i]) != 0));
      total += static_cast<std::int64_t>(count);
    }
    return total;
  }

  static std::int64_t count_ones(Bits words, std::int64_t n) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      std::uint64_t x = words[i];  // additions in parallel inside the word; popcnt is not in the baseline of x86-64
      x -= x >> 1 & 0x5555555555555555u;
      x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
      x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
      count += static_cast<std::int64_t>(x * 0x0101010101010101u >> 56);
    }
    return count;
  }

  static void zero_block(Storage* x, std::uint64_t keep, std::uint64_t exist) {
    if (exist == all) {
      Simd::zero(x, keep);
    } else {
      for (std::uint64_t off = ~keep & exist; off; off &= off - 1) x[lowest(off)] = 0;
    }
  }
};

template <typename Simd, typename Storage>
Loops<Storage> make_loops() {
  using Own = LoopsOf<Simd, Storage>;
  return {Own::tally, Own::histogram, Own::count_equal,   Own::count_above, Own::mark,
          Own::clear, Own::apply,     Own::count_nonzero, Own::count_ones};
}

}  // namespace autoarch
