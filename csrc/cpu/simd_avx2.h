// simd_plain.h's operations in AVX2. Include it under the target (loops_avx2.cpp). There are no unsigned comparisons,
// and none are needed: a magnitude has its top bit clear.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoarch {

// Vectors of 256 bits of one element width. `step` elements give `bits` at once: of two vectors where elements have 16
// bits, as there is no mask of those.
template <typename Storage>
struct Half;

template <>
struct Half<std::uint16_t> {
  static constexpr int vectors = 2;
  static __m256i all(std::uint16_t x) { return _mm256_set1_epi16(static_cast<short>(x)); }
  static __m256i above(__m256i a, __m256i b) { return _mm256_cmpgt_epi16(a, b); }
  static __m256i most(__m256i a, __m256i b) { return _mm256_max_epi16(a, b); }
  static __m256i less(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
  static std::uint64_t bits(const __m256i* v) {
    return static_cast<unsigned>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(v[0], v[1]), 0xd8)));
  }
  static __m256i lanes(std::uint64_t word) {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    return _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(static_cast<short>(word)), bit), bit);
  }
};
template <>
struct Half<std::uint32_t> {
  static constexpr int vectors = 1;
  static __m256i all(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static __m256i above(__m256i a, __m256i b) { return _mm256_cmpgt_epi32(a, b); }
  static __m256i most(__m256i a, __m256i b) { return _mm256_max_epi32(a, b); }
  static __m256i less(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
  static std::uint64_t bits(const __m256i* v) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(v[0])));
  }
  static __m256i lanes(std::uint64_t word) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(word)), bit), bit);
  }
};
template <>
struct Half<std::uint64_t> {
  static constexpr int vectors = 1;
  static __m256i all(std::uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  static __m256i above(__m256i a, __m256i b) { return _mm256_cmpgt_epi64(a, b); }
  static __m256i most(__m256i a, __m256i b) { return _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi64(a, b)); }
  static __m256i less(__m256i a, __m256i b) { return _mm256_sub_epi64(a, b); }
  static std::uint64_t bits(const __m256i* v) {
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(v[0])));
  }
  static __m256i lanes(std::uint64_t word) {
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
    return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(static_cast<long long>(word)), bit), bit);
  }
};

struct Avx2 {
  template <typename Storage>
  static constexpr int lanes = 32 / static_cast<int>(sizeof(Storage));

  template <typename Storage>
  static __m256i load(const Storage* x) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  }
  template <typename Storage>
  static void store(Storage* x, __m256i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), v);
  }
  template <typename Storage>
  static __m256i key(__m256i v) {
    return _mm256_and_si256(v, Half<Storage>::all(static_cast<Storage>(static_cast<Storage>(~Storage{0}) >> 1)));
  }

  // The bits of f(first element of a vector), a vector of all ones and zeros, for the 64 elements of a block.
  template <typename Storage, typename F>
  static std::uint64_t bits(F&& f) {
    using Vector = Half<Storage>;
    constexpr int width = lanes<Storage>;
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; i += Vector::vectors * width) {
      __m256i found[Vector::vectors];
      for (int v = 0; v < Vector::vectors; ++v) found[v] = f(i + v * width);
      mask |= Vector::bits(found) << i;
    }
    return mask;
  }

  template <typename Storage>
  static std::uint64_t above(const Storage* x, Storage t) {
    const __m256i threshold = Half<Storage>::all(t);
    return bits<Storage>([&](int i) { return Half<Storage>::above(key<Storage>(load(x + i)), threshold); });
  }

  template <typename Storage>
  static std::uint64_t cut(Storage* x, Storage t) {
    const __m256i threshold = Half<Storage>::all(t);
    return bits<Storage>([&](int i) {
      const __m256i v = load(x + i), kept = Half<Storage>::above(key<Storage>(v), threshold);
      store(x + i, _mm256_and_si256(v, kept));
      return kept;
    });
  }

  template <typename Storage>
  static void zero(Storage* x, std::uint64_t keep) {
    for (int i = 0; i < 64; i += lanes<Storage>)
      store(x + i, _mm256_and_si256(load(x + i), Half<Storage>::lanes(keep >> i)));
  }

  // Counts and the largest stay in vectors; of each block only the bits of what is inside leave them.
  template <typename Storage>
  class Sieve {
   public:
    Sieve(Storage low, Storage high, Storage infinity, Storage* next_)
        : next(next_), low_(Vector::all(low)), high_(Vector::all(high)), infinity_(infinity), start_(next_) {}

    void operator()(const Storage* x, std::uint64_t candidates) {
      std::uint64_t inside;
      if (candidates == ~std::uint64_t{0})
        inside = bits<Storage>([&](int i) { return take(key<Storage>(load(x + i)), _mm256_set1_epi8(-1)); });
      else
        inside = bits<Storage>([&](int i) { return take(key<Storage>(load(x + i)), Vector::lanes(candidates >> i)); });
      met_ += __builtin_popcountll(candidates);
      if (++uncounted_ == flushed_after) flush();
      // Most blocks have none, one or two: those are stored without a branch, which would be mispredicted as often.
      for (int i = 0; i < 2; ++i, inside &= inside - 1) {
        *next = magnitude_key(x[__builtin_ctzll(inside | std::uint64_t{1} << 63)]);
        next += inside != 0;
      }
      for (; inside; inside &= inside - 1) *next++ = magnitude_key(x[__builtin_ctzll(inside)]);
    }

    std::int64_t to_low() const { return met_ - past_low(); }
    std::int64_t from_high() const { return past_low() - (next - start_); }
    bool nan() const {
      alignas(32) Storage each[lanes<Storage>];
      store(each, most_);
      bool found = false;
      for (const Storage one : each) found = found || one > infinity_;
      return found;
    }

    Storage* next;

   private:
    using Vector = Half<Storage>;
    // A lane of 16 bits counts up to 4 a block.
    static constexpr int flushed_after = 1 << 13;

    // The keys `in` are counted; returns which of them are inside.
    __m256i take(__m256i keys, __m256i in) {
      const __m256i past = _mm256_and_si256(Vector::above(keys, low_), in);
      past_ = Vector::less(past_, past);
      most_ = Vector::most(most_, _mm256_and_si256(keys, in));
      return _mm256_and_si256(Vector::above(high_, keys), past);
    }

    std::int64_t past_low() const {
      alignas(32) Storage each[lanes<Storage>];
      store(each, past_);
      std::int64_t sum = flushed_;
      for (const Storage one : each) sum += static_cast<std::int64_t>(one);
      return sum;
    }
    void flush() {
      flushed_ = past_low();
      past_ = _mm256_setzero_si256(), uncounted_ = 0;
    }

    __m256i low_, high_, most_ = _mm256_setzero_si256(), past_ = _mm256_setzero_si256();
    Storage infinity_;
    Storage* start_;
    std::int64_t met_ = 0, flushed_ = 0;
    int uncounted_ = 0;
  };
};

}  // namespace autoarch
