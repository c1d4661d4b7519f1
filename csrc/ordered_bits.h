// |x| as an unsigned integer in the order of the magnitudes: the one definition of order, on host and device.
//
// An IEEE 754 number is sign, exponent, mantissa, from the top bit down. With the sign cleared, the bits read as an
// unsigned integer grow with |x|: zero (both of them) < denormals < normals < infinity < NaN. No floating-point
// instruction is involved, so rounding modes and flush-to-zero cannot change an answer.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AUTOARCH_HOST_DEVICE __host__ __device__
#else
#define AUTOARCH_HOST_DEVICE
#endif

namespace autoarch {

// `Bits` is the unsigned integer as wide as the number: uint16_t for bfloat16 and float16 (their order is the same
// function of the bits), uint32_t for float32, uint64_t for float64.
template <typename Bits>
AUTOARCH_HOST_DEVICE constexpr Bits magnitude_key(Bits bits) {
  return static_cast<Bits>(bits & static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1));
}

}  // namespace autoarch
