// simd_plain.h's operations in AVX2. Include it under the target (loops_avx2.cpp). There are no unsigned comparisons,
// and none are needed: a magnitude has its top bit clear.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "sieve.h"

namespace autoarch {

struct Avx2 {
  static __m256i load(const void* x, __m256i magnitude) {
    return _mm256_and_si256(_mm256_loadu_si256(static_cast<const __m256i*>(x)), magnitude);
  }

  // Bits of the lanes of 256 bits at `x` (16-bit elements: of two such vectors) that are above the threshold.
  static std::uint64_t lanes(const std::uint16_t* x, std::uint16_t t) {
    const __m256i magnitude = _mm256_set1_epi16(0x7fff), threshold = _mm256_set1_epi16(static_cast<short>(t));
    const __m256i first = _mm256_cmpgt_epi16(load(x, magnitude), threshold);
    const __m256i second = _mm256_cmpgt_epi16(load(x + 16, magnitude), threshold);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xd8);
    return static_cast<unsigned>(_mm256_movemask_epi8(bytes));
  }
  static std::uint64_t lanes(const std::uint32_t* x, std::uint32_t t) {
    const __m256i keys = load(x, _mm256_set1_epi32(0x7fffffff));
    const __m256i greater = _mm256_cmpgt_epi32(keys, _mm256_set1_epi32(static_cast<int>(t)));
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(greater)));
  }
  static std::uint64_t lanes(const std::uint64_t* x, std::uint64_t t) {
    const __m256i keys = load(x, _mm256_set1_epi64x(0x7fffffffffffffff));
    const __m256i greater = _mm256_cmpgt_epi64(keys, _mm256_set1_epi64x(static_cast<long long>(t)));
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(greater)));
  }

  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    constexpr int step = sizeof(Storage) == 2 ? 32 : 32 / static_cast<int>(sizeof(Storage));
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; i += step) mask |= lanes(x + i, t) << i;
    return mask;
  }

  template <typename Storage>
  static Storage largest(const Storage* x, Storage most) {
    for (int i = 0; i < 64; ++i) {  // vectorised by the compiler
      const Storage key = static_cast<Storage>(x[i] & static_cast<Storage>(static_cast<Storage>(~Storage{0}) >> 1));
      most = key > most ? key : most;
    }
    return most;
  }

  template <typename Storage>
  using Sieve = MaskSieve<Avx2, Storage>;

  static void zero(std::uint16_t* x, std::uint64_t keep) {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    for (int i = 0; i < 64; i += 16) {
      const __m256i bits = _mm256_and_si256(_mm256_set1_epi16(static_cast<short>(keep >> i)), bit);
      store(x + i, _mm256_cmpeq_epi16(bits, bit));
    }
  }
  static void zero(std::uint32_t* x, std::uint64_t keep) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int i = 0; i < 64; i += 8) {
      const __m256i bits = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(keep >> i)), bit);
      store(x + i, _mm256_cmpeq_epi32(bits, bit));
    }
  }
  static void zero(std::uint64_t* x, std::uint64_t keep) {
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
    for (int i = 0; i < 64; i += 4) {
      const __m256i bits = _mm256_and_si256(_mm256_set1_epi64x(static_cast<long long>(keep >> i)), bit);
      store(x + i, _mm256_cmpeq_epi64(bits, bit));
    }
  }

  static void store(void* x, __m256i keep) {
    const auto at = static_cast<__m256i*>(x);
    _mm256_storeu_si256(at, _mm256_and_si256(_mm256_loadu_si256(at), keep));
  }
};

}  // namespace autoarch
