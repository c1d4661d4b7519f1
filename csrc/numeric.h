// Arithmetic on the four dtypes by their bits, the same on host and device: conversions in plain integers, so that no
// rounding mode or fused operation of either can make two answers of one.
//
//   work type   float32 for float32, bfloat16, float16; float64 for float64
//   widening    exact                     narrowing    to nearest, ties to even; NaN stays NaN
#pragma once

#include <cstdint>
#include <cstring>

#include "ordered_bits.h"
#include "prune.h"

namespace autoarch {

template <typename To, typename From>
AUTOARCH_HOST_DEVICE inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same number of bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Storage and arithmetic of one Dtype.
template <Dtype dtype>
struct Number;

template <>
struct Number<Dtype::float32> {
  using Storage = std::uint32_t;
  using Work = float;
  static constexpr Storage infinity = 0x7f800000u;
  AUTOARCH_HOST_DEVICE static Work widen(Storage bits) { return bit_cast<float>(bits); }
  AUTOARCH_HOST_DEVICE static Storage narrow(Work x) { return bit_cast<Storage>(x); }
};

template <>
struct Number<Dtype::float64> {
  using Storage = std::uint64_t;
  using Work = double;
  static constexpr Storage infinity = 0x7ff0000000000000u;
  AUTOARCH_HOST_DEVICE static Work widen(Storage bits) { return bit_cast<double>(bits); }
  AUTOARCH_HOST_DEVICE static Storage narrow(Work x) { return bit_cast<Storage>(x); }
};

template <>
struct Number<Dtype::bfloat16> {
  using Storage = std::uint16_t;
  using Work = float;
  static constexpr Storage infinity = 0x7f80u;
  AUTOARCH_HOST_DEVICE static Work widen(Storage bits) {
    return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  AUTOARCH_HOST_DEVICE static Storage narrow(Work x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    if (magnitude_key(bits) > Number<Dtype::float32>::infinity) return static_cast<Storage>(bits >> 16 | 0x40u);
    return static_cast<Storage>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
};

template <>
struct Number<Dtype::float16> {
  using Storage = std::uint16_t;
  using Work = float;
  static constexpr Storage infinity = 0x7c00u;

  AUTOARCH_HOST_DEVICE static Work widen(Storage bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = bits >> 10 & 31u;
    std::uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 31u) return bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0u) return bit_cast<float>(sign | (exponent + 112u) << 23 | mantissa << 13);
    if (mantissa == 0u) return bit_cast<float>(sign);
    std::uint32_t shift = 0;
    while (!(mantissa & 0x400u)) mantissa <<= 1, ++shift;
    return bit_cast<float>(sign | (113u - shift) << 23 | (mantissa & 0x3ffu) << 13);
  }

  AUTOARCH_HOST_DEVICE static Storage narrow(Work x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x), key = magnitude_key(bits);
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    if (key > 0x7f800000u) return static_cast<Storage>(sign | 0x7e00u);
    if (key >= 0x477ff000u) return static_cast<Storage>(sign | 0x7c00u);  // 65520 and more round to infinity
    if (key >= 0x38800000u) {                                             // a normal number: 2^-14 and more
      const std::uint32_t rounded = key + 0xfffu + (key >> 13 & 1u);
      return static_cast<Storage>(sign | ((rounded >> 13) - (112u << 10)));
    }
    if (key <= 0x33000000u) return static_cast<Storage>(sign);  // 2^-25 and less round to zero
    const std::uint32_t shift = 126u - (key >> 23);             // in [14, 24]
    const std::uint32_t mantissa = (key & 0x7fffffu) | 0x800000u;
    const std::uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1u);
    std::uint32_t rounded = mantissa >> shift;
    if (rest > half || (rest == half && (rounded & 1u))) ++rounded;
    return static_cast<Storage>(sign | rounded);
  }
};

// sign(x) max(|x| - amount, 0) by bits; NaN stays.
template <Dtype dtype>
AUTOARCH_HOST_DEVICE inline typename Number<dtype>::Storage soft_thresholded(typename Number<dtype>::Storage bits,
                                                                             typename Number<dtype>::Work amount) {
  using N = Number<dtype>;
  const typename N::Storage key = magnitude_key(bits);
  if (key > N::infinity) return bits;
  const typename N::Work left = N::widen(key) - amount;
  if (!(left > 0)) return 0;  // also inf - inf
  return static_cast<typename N::Storage>(N::narrow(left) | (bits ^ key));
}

// x * factor in float64, rounded to the work type and then to the dtype; a factor of 0 gives +0.
template <Dtype dtype>
AUTOARCH_HOST_DEVICE inline typename Number<dtype>::Storage scaled(typename Number<dtype>::Storage bits,
                                                                   double factor) {
  using N = Number<dtype>;
  if (factor == 0) return 0;
  return N::narrow(static_cast<typename N::Work>(static_cast<double>(N::widen(bits)) * factor));
}

// The factor of the group lasso's proximal step. A norm that is NaN or infinite leaves its slice as it is.
AUTOARCH_HOST_DEVICE inline double shrinkage(double norm, double amount) {
  if (amount == 0 || !(norm <= 1.7976931348623157e308)) return 1;
  return norm > amount ? 1 - amount / norm : 0;
}

}  // namespace autoarch
