// What loops_impl.h asks of an instruction set, in plain C++ that compilers turn into vectors of their baseline.
// `x` is 64 elements at any alignment.
//
//   above(x, t)        bit i: magnitude_key(x[i]) > t
//   cut(x, t)          the same, and x[i] = 0 where the bit is 0
//   zero(x, keep)      x[i] = 0 where bit i of keep is 0
//   Sieve(low, high, infinity, next)   keys of candidates against a bracket, block after block: counts, whether there
//                      is a NaN, and those strictly inside stored at `next`, which moves behind them; up to 64 are
//                      written there at once
//
// Comparisons are signed: a magnitude has its top bit clear, and SSE2 has no others.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../ordered_bits.h"

namespace autoarch {

struct Plain {
  // All ones where a > b, both magnitudes; by a subtraction where elements have 64 bits, which SSE2 does not compare.
  template <typename Storage>
  static Storage greater(Storage a, Storage b) {
    using Signed = std::make_signed_t<Storage>;
    if constexpr (sizeof(Storage) == 8) return Storage{0} - (static_cast<Storage>(b - a) >> 63);
    return static_cast<Signed>(a) > static_cast<Signed>(b) ? static_cast<Storage>(~Storage{0}) : Storage{0};
  }

  // 64 bytes of 0 or 1 as bits: the product has the first byte's bit at 56, the second's at 57, ...
  static std::uint64_t bits(const std::uint8_t* flags) {
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; i += 8) mask |= (eight(flags + i) * 0x0102040810204080u >> 56) << i;
    return mask;
  }
  static std::uint64_t eight(const std::uint8_t* flags) {
    std::uint64_t word;
    std::memcpy(&word, flags, sizeof word);
    return word;
  }

  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    std::uint8_t flags[64];
    for (int i = 0; i < 64; ++i) flags[i] = greater(magnitude_key(x[i]), t) & 1;
    return bits(flags);
  }

  template <typename Storage>
  static std::uint64_t cut(Storage* x, Storage t) {
    std::uint8_t flags[64];
    for (int i = 0; i < 64; ++i) {
      const Storage kept = greater(magnitude_key(x[i]), t);
      x[i] = x[i] & kept, flags[i] = kept & 1;
    }
    return bits(flags);
  }

  template <typename Storage>
  static void zero(Storage* x, std::uint64_t keep) {
    std::uint8_t flags[64];  // not 0 where the bit is 1
    for (int i = 0; i < 64; i += 8) {
      const std::uint64_t word = (keep >> i & 0xff) * 0x0101010101010101u & 0x8040201008040201u;
      std::memcpy(flags + i, &word, sizeof word);
    }
    for (int i = 0; i < 64; ++i) x[i] = flags[i] ? x[i] : Storage{0};
  }

  template <typename Storage>
  class Sieve {
   public:
    Sieve(Storage low, Storage high, Storage infinity, Storage* next_)
        : next(next_), low_(low), high_(high), infinity_(infinity), start_(next_) {}

    void operator()(const Storage* x, std::uint64_t candidates) {
      if (candidates == ~std::uint64_t{0})
        all(x);
      else
        some(x, candidates);
    }

    std::int64_t to_low() const { return met_ - past_low_; }
    std::int64_t from_high() const { return past_low_ - (next - start_); }
    bool nan() const { return nan_ != 0; }

    Storage* next;

   private:
    void all(const Storage* x) {
      std::uint8_t inside[64];
      const Storage low = low_, high = high_,
                    infinity = infinity_;  // members may be what bytes are written to, for all the compiler knows
      Storage past = 0, nan = 0;
      for (int i = 0; i < 64; ++i) {
        const Storage key = magnitude_key(x[i]);
        past = static_cast<Storage>(past - greater(key, low));
        nan = nan | greater(key, infinity);
      }
      for (int i = 0; i < 64; ++i) {
        const Storage key = magnitude_key(x[i]);
        inside[i] = greater(key, low) & greater(high, key) & 1;
      }
      met_ += 64, past_low_ += static_cast<std::int64_t>(past), nan_ = nan_ | nan;
      for (int i = 0; i < 64; i += 8) {
        if (eight(inside + i) == 0) continue;
        for (int j = i; j < i + 8; ++j) *next = magnitude_key(x[j]), next += inside[j];
      }
    }

    void some(const Storage* x, std::uint64_t candidates) {
      for (int i = 0; candidates != 0; ++i, candidates >>= 1) {
        if ((candidates & 1) == 0) continue;
        const Storage key = magnitude_key(x[i]);
        ++met_, past_low_ += greater(key, low_) & 1;
        nan_ = nan_ | greater(key, infinity_);
        *next = key, next += greater(key, low_) & greater(high_, key) & 1;
      }
    }

    Storage low_, high_, infinity_, nan_ = 0;
    Storage* start_;
    std::int64_t met_ = 0, past_low_ = 0;
  };
};

}  // namespace autoarch
