// simd_plain.h's operations in AVX-512 (F, BW, VL, DQ, VBMI2). Include it under the target (loops_avx512.cpp).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoarch {

// A mask register's bits as a number. The empty statement puts them into a general register before they are widened:
// gcc 12 otherwise may spill a mask as 4 bytes and load it back as 8 (seen at -O1 with -fsanitize=thread, 16-bit
// elements).
static inline std::uint64_t mask_bits(std::uint32_t mask) {
  asm("" : "+r"(mask));
  return mask;
}

// Vectors of 512 bits of one element width; all comparisons are signed, as a magnitude has its top bit clear. What is
// not `in` a mask is not looked at: its bit of a result is 0.
template <typename Storage>
struct Wide;

template <>
struct Wide<std::uint16_t> {
  using Mask = __mmask32;
  static __m512i all(std::uint16_t x) { return _mm512_set1_epi16(static_cast<short>(x)); }
  static Mask above(Mask in, __m512i a, __m512i b) { return _mm512_mask_cmpgt_epi16_mask(in, a, b); }
  static __m512i most(Mask in, __m512i a, __m512i b) { return _mm512_mask_max_epu16(a, in, a, b); }
  static __m512i front(Mask in, __m512i a) { return _mm512_maskz_compress_epi16(in, a); }
};
template <>
struct Wide<std::uint32_t> {
  using Mask = __mmask16;
  static __m512i all(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static Mask above(Mask in, __m512i a, __m512i b) { return _mm512_mask_cmpgt_epi32_mask(in, a, b); }
  static __m512i most(Mask in, __m512i a, __m512i b) { return _mm512_mask_max_epu32(a, in, a, b); }
  static __m512i front(Mask in, __m512i a) { return _mm512_maskz_compress_epi32(in, a); }
};
template <>
struct Wide<std::uint64_t> {
  using Mask = __mmask8;
  static __m512i all(std::uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static Mask above(Mask in, __m512i a, __m512i b) { return _mm512_mask_cmpgt_epi64_mask(in, a, b); }
  static __m512i most(Mask in, __m512i a, __m512i b) { return _mm512_mask_max_epu64(a, in, a, b); }
  static __m512i front(Mask in, __m512i a) { return _mm512_maskz_compress_epi64(in, a); }
};

struct Avx512 {
  template <typename Storage>
  static constexpr int lanes = 64 / static_cast<int>(sizeof(Storage));

  template <typename Storage>
  static __m512i keys(const Storage* x) {
    const auto magnitude = static_cast<Storage>(static_cast<Storage>(~Storage{0}) >> 1);
    return _mm512_and_si512(_mm512_loadu_si512(x), Wide<Storage>::all(magnitude));
  }

  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    const __m512i threshold = Wide<Storage>::all(t);
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; i += lanes<Storage>) {
      const auto every = static_cast<typename Wide<Storage>::Mask>(~0u);
      mask |= mask_bits(Wide<Storage>::above(every, keys(x + i), threshold)) << i;
    }
    return mask;
  }

  template <typename Storage>
  static std::uint64_t cut(Storage* x, Storage t) {
    const std::uint64_t keep = above(x, t);
    zero(x, keep);
    return keep;
  }

  // The keys inside are compressed to the front of a vector, which is stored whole.
  template <typename Storage>
  struct Sieve {
    using Vector = Wide<Storage>;
    __m512i low, high, most = _mm512_setzero_si512();
    const Storage infinity;
    Storage* const start;
    Storage* next;
    std::int64_t met = 0, past_low = 0;

    Sieve(Storage low_, Storage high_, Storage infinity_, Storage* next_)
        : low(Vector::all(low_)), high(Vector::all(high_)), infinity(infinity_), start(next_), next(next_) {}

    void operator()(const Storage* x, std::uint64_t candidates) {
      met += __builtin_popcountll(candidates);
      for (int i = 0; i < 64; i += lanes<Storage>) {
        const auto in = static_cast<typename Vector::Mask>(candidates >> i);
        const __m512i k = keys(x + i);
        const auto past = Vector::above(in, k, low), inside = Vector::above(past, high, k);
        most = Vector::most(in, most, k);
        _mm512_storeu_si512(next, Vector::front(inside, k));
        next += __builtin_popcountll(mask_bits(inside));
        past_low += __builtin_popcountll(mask_bits(past));
      }
    }

    std::int64_t to_low() const { return met - past_low; }
    std::int64_t from_high() const { return past_low - (next - start); }
    bool nan() const {
      alignas(64) Storage each[lanes<Storage>];
      _mm512_store_si512(each, most);
      bool found = false;
      for (const Storage key : each) found = found || key > infinity;
      return found;
    }
  };

  static void zero(std::uint16_t* x, std::uint64_t keep) {
    for (int i = 0; i < 64; i += 32)
      _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi16(static_cast<__mmask32>(keep >> i), x + i));
  }
  static void zero(std::uint32_t* x, std::uint64_t keep) {
    for (int i = 0; i < 64; i += 16)
      _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi32(static_cast<__mmask16>(keep >> i), x + i));
  }
  static void zero(std::uint64_t* x, std::uint64_t keep) {
    for (int i = 0; i < 64; i += 8)
      _mm512_storeu_si512(x + i, _mm512_maskz_loadu_epi64(static_cast<__mmask8>(keep >> i), x + i));
  }
};

}  // namespace autoarch
