// simd_plain.h's operations in AVX-512 (F, BW, VL, DQ, VBMI2). Include it under the target (loops_avx512.cpp).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoarch {

// A mask register's bits as a number. The empty statement puts them into a general register before they are widened: gcc
// 12 otherwise may spill a mask as 4 bytes and load it back as 8 (seen at -O1 with -fsanitize=thread, 16-bit elements).
static inline std::uint64_t mask_bits(std::uint32_t mask) {
  asm("" : "+r"(mask));
  return mask;
}

// Vectors of 512 bits of one element width; all comparisons are signed, as a magnitude has its top bit clear.
template <typename Storage>
struct Wide;

template <>
struct Wide<std::uint16_t> {
  static __m512i all(std::uint16_t x) { return _mm512_set1_epi16(static_cast<short>(x)); }
  static std::uint64_t above(__m512i a, __m512i b) { return mask_bits(_mm512_cmpgt_epi16_mask(a, b)); }
  static __m512i most(__m512i a, __m512i b) { return _mm512_max_epu16(a, b); }
  static __m512i some(std::uint64_t bits, __m512i a) { return _mm512_maskz_mov_epi16(static_cast<__mmask32>(bits), a); }
  static __m512i front(std::uint64_t bits, __m512i a) {
    return _mm512_maskz_compress_epi16(static_cast<__mmask32>(bits), a);
  }
};
template <>
struct Wide<std::uint32_t> {
  static __m512i all(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static std::uint64_t above(__m512i a, __m512i b) { return mask_bits(_mm512_cmpgt_epi32_mask(a, b)); }
  static __m512i most(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  static __m512i some(std::uint64_t bits, __m512i a) { return _mm512_maskz_mov_epi32(static_cast<__mmask16>(bits), a); }
  static __m512i front(std::uint64_t bits, __m512i a) {
    return _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), a);
  }
};
template <>
struct Wide<std::uint64_t> {
  static __m512i all(std::uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static std::uint64_t above(__m512i a, __m512i b) { return mask_bits(_mm512_cmpgt_epi64_mask(a, b)); }
  static __m512i most(__m512i a, __m512i b) { return _mm512_max_epu64(a, b); }
  static __m512i some(std::uint64_t bits, __m512i a) { return _mm512_maskz_mov_epi64(static_cast<__mmask8>(bits), a); }
  static __m512i front(std::uint64_t bits, __m512i a) {
    return _mm512_maskz_compress_epi64(static_cast<__mmask8>(bits), a);
  }
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
    for (int i = 0; i < 64; i += lanes<Storage>) mask |= Wide<Storage>::above(keys(x + i), threshold) << i;
    return mask;
  }

  // See sieve.h; the keys inside are compressed to the front of a vector, which is stored whole.
  template <typename Storage>
  struct Sieve {
    using Vector = Wide<Storage>;
    __m512i low, high, most = _mm512_setzero_si512();
    Storage* next;
    std::int64_t to_low = 0, from_high = 0;

    Sieve(Storage low_, Storage high_, Storage* next_) : low(Vector::all(low_)), high(Vector::all(high_)), next(next_) {}

    void operator()(const Storage* x, std::uint64_t candidates) {
      constexpr std::uint64_t whole = lanes<Storage> == 64 ? 0 : (std::uint64_t{1} << lanes<Storage>) - 1;
      for (int i = 0; i < 64; i += lanes<Storage>) {
        const std::uint64_t here = candidates >> i & whole;
        const __m512i k = Vector::some(here, keys(x + i));
        const std::uint64_t past_low = Vector::above(k, low) & here, before_high = Vector::above(high, k) & here;
        const std::uint64_t inside = past_low & before_high;
        most = Vector::most(most, k);
        _mm512_storeu_si512(next, Vector::front(inside, k));
        next += __builtin_popcountll(inside);
        to_low += __builtin_popcountll(here & ~past_low);
        from_high += __builtin_popcountll(here & ~before_high);
      }
    }

    Storage largest() const {
      alignas(64) Storage each[lanes<Storage>];
      _mm512_store_si512(each, most);
      Storage result = 0;
      for (const Storage key : each) result = key > result ? key : result;
      return result;
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
