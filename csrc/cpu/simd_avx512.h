// simd_plain.h's operations in AVX-512 (F, BW, VL, DQ). Include it under the target (loops_avx512.cpp).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoarch {

struct Avx512 {
  static __m512i load(const void* x, __m512i magnitude) { return _mm512_and_si512(_mm512_loadu_si512(x), magnitude); }

  // Bits of the 512-bit lanes at `x` that are above each threshold.
  template <int n>
  static void lanes(const std::uint16_t* x, const std::uint16_t (&t)[n], std::uint64_t (&bits)[n]) {
    const __m512i keys = load(x, _mm512_set1_epi16(0x7fff));
    for (int k = 0; k < n; ++k) bits[k] = _mm512_cmpgt_epi16_mask(keys, _mm512_set1_epi16(static_cast<short>(t[k])));
  }
  template <int n>
  static void lanes(const std::uint32_t* x, const std::uint32_t (&t)[n], std::uint64_t (&bits)[n]) {
    const __m512i keys = load(x, _mm512_set1_epi32(0x7fffffff));
    for (int k = 0; k < n; ++k) bits[k] = _mm512_cmpgt_epi32_mask(keys, _mm512_set1_epi32(static_cast<int>(t[k])));
  }
  template <int n>
  static void lanes(const std::uint64_t* x, const std::uint64_t (&t)[n], std::uint64_t (&bits)[n]) {
    const __m512i keys = load(x, _mm512_set1_epi64(0x7fffffffffffffff));
    for (int k = 0; k < n; ++k)
      bits[k] = _mm512_cmpgt_epi64_mask(keys, _mm512_set1_epi64(static_cast<long long>(t[k])));
  }

  template <typename Storage, int n>
  static void compare(const Storage* x, const Storage (&t)[n], std::uint64_t (&masks)[n]) {
    constexpr int step = 64 / static_cast<int>(sizeof(Storage));
    for (int k = 0; k < n; ++k) masks[k] = 0;
    for (int i = 0; i < 64; i += step) {
      std::uint64_t bits[n];
      lanes(x + i, t, bits);
      for (int k = 0; k < n; ++k) masks[k] |= bits[k] << i;
    }
  }

  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    const Storage thresholds[1] = {t};
    std::uint64_t masks[1];
    compare(x, thresholds, masks);
    return masks[0];
  }
  template <typename Storage>
  static void above(const Storage* x, const Storage (&t)[3], std::uint64_t (&masks)[3]) {
    compare(x, t, masks);
  }

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
