// The C++ API of lightning_autoarch._C: what a pruning operation promises, whoever calls it.
//
// Three layers, none of which knows the next:
//   device code (cuda/*.cuh, loops in cpu/*.h)     pointers and integers
//   launchers   (cuda/*.cu, cpu/*.cpp)             devices, streams, threads, scratch
//   bindings    (bindings.cpp)                     Python
//
// A tensor is its data pointer, its number of elements, its strides and the list's Dtype; memory belongs to the caller.
// The CPU functions allocate scratch for the time of the call (`select`: at most 2 % of the weights' bytes or 8 MiB,
// whichever is larger); the CUDA functions allocate nothing, their scratch is an argument. No pointer is kept. No
// libtorch.
//
// Order. Elements are counted in logical row-major order, tensor after tensor: the flat index. The magnitude of an
// element is `magnitude_key` of its bits (ordered_bits.h): -0 equals 0, denormals count, infinity is the largest
// number. *Smaller* means (key, then higher flat index first): among equals the lowest index is kept. No floating-point
// comparison is involved, and every answer is exact: the same bits from any device, number of threads and memory
// layout.
//
// Bits. A mask is a run of 64-bit words, element i of its tensor at bit i % 64 of word i / 64, 1 = kept; the bits
// behind the last element are 0. On the device the same bytes are read as 32-bit words.
//
// Errors: std::invalid_argument for what the caller got wrong, std::runtime_error (with CUDA's own words) for what
// the device reports. Where an error is thrown, nothing was written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// "Exactly zero" and "denormals count" are part of the contract; under fast-math the compiler may break both, and
// linking with it sets flush-to-zero for the whole process that loads the extension.
#if defined(__FAST_MATH__)
#error "lightning_autoarch must not be compiled with -ffast-math or -Ofast: see csrc/prune.h"
#endif

namespace autoarch {

enum class Dtype : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

constexpr int max_dims = 16;

// Where the elements of a tensor lie. dims == 0: contiguous, in logical order. Else `size` and `stride` (in elements)
// are those of the logical dimensions, the last of them the fastest; sizes of 1 and dimensions that continue each other
// may have been merged.
struct Layout {
  int dims = 0;
  std::int64_t size[max_dims] = {};
  std::int64_t stride[max_dims] = {};
};

struct Array {
  void* data = nullptr;  // may be null exactly if n == 0
  std::int64_t n = 0;
  Layout layout;
};

using Arrays = std::vector<Array>;
using Bits = const std::uint64_t*;  // one tensor's mask, read
using BitsOut = std::uint64_t*;     // one tensor's mask, written

// What `select` is to do. The *candidates* are the elements whose bit in `given` is 1 (regrow: is 0); without `given`
// all of them. `remove` of the candidates, the smallest, lose their bit; the other candidates have it. Elements that
// are no candidates get bit 0, and are 0, in a removal; bit 1, and stay, when regrowing.
struct Request {
  std::vector<Bits> given;  // empty, or one mask a tensor
  bool regrow = false;
  std::int64_t remove = 0;   // in [0, number of candidates]
  bool keep_nan = false;     // NaN is larger than infinity; else one among the candidates ends the call
  std::vector<BitsOut> out;  // empty: only the threshold is wanted. `out` and `given` may be the same memory
  bool zero = false;         // write +0 where the bit is 0 (only there); needs `out`
};

// The element at which a selection was cut. With keep_nan and more to remove than there are numbers, `numbers` says so:
// remove > numbers, nothing was written.
struct Threshold {
  std::uint64_t key = 0;        // of the largest that is removed; 0 when nothing is
  std::int64_t kept_equal = 0;  // candidates with this key that are kept, those of the lowest flat indices
  std::int64_t numbers = 0;     // candidates that are not NaN; 0 when `nan_array` is set
  std::int64_t nan_array = -1;  // without keep_nan: the first array with a NaN. Nothing was written
};

Threshold select(const Arrays& arrays, const Request& request, Dtype dtype, int threads);

// Writes +0 where the mask's bit is 0, and nothing elsewhere (memory that does not change may be rewritten).
void apply_masks(const Arrays& arrays, const std::vector<Bits>& masks, Dtype dtype, int threads);

// Mask of n-of-m sparsity: of each m neighbours along a dimension the n largest are kept, among equals the first. An
// array is seen as (outer, length, inner) with length % m == 0 and outer * length * inner == its number of elements;
// neighbours lie along `length`. 1 <= n <= m <= 64. NaN is largest.
struct Groups {
  std::int64_t outer = 1, length = 1, inner = 1;
};
void nm_mask(const Array& array, const Groups& shape, int n, int m, BitsOut out, Dtype dtype, int threads);

// The mask that is 2-of-4 along rows and along columns: for each 4 x 4 tile of the matrices (batch, rows, columns) the
// pattern, of the 90 there are, with the largest sum of magnitudes (added in row-major order in float64; of equal sums
// the pattern with the lowest number, see patterns.h). Sizes of rows and columns are multiples of 4.
struct Matrices {
  std::int64_t batch = 1, rows = 1, columns = 1;
};
void transposable_mask(const Array& array, const Matrices& shape, BitsOut out, Dtype dtype, int threads);

// x <- sign(x) max(|x| - amount, 0), amounts[i] >= 0 for arrays[i]. One subtraction in float32 (float64 for float64),
// rounded once to the dtype; `amount` is rounded to that type first. NaN stays.
void soft_threshold(const Arrays& arrays, const std::vector<double>& amounts, Dtype dtype, int threads);

// norms[g] of the array seen as (outer, length, inner): the p-norm (p = 1 or 2) of the slice g along `length`, over
// outer and inner. In float64: lane l of 32 adds the elements l, l + 32, ... of the slice in order, then the lanes are
// added in a tree (l += l + 16, 8, 4, 2, 1), without fused multiply-add.
void group_norms(const Array& array, const Groups& shape, int p, double* norms, Dtype dtype, int threads);

// The proximal step of the group lasso: slice g is multiplied by max(1 - amount / norms[g], 0), norms as from
// group_norms with p = 2; a factor of 0 writes +0. In float64, rounded to float32 and then to the dtype (float64:
// once).
void group_soft_threshold(const Array& array, const Groups& shape, const double* norms, double amount, Dtype dtype,
                          int threads);

// How many of the n elements at `data` are not zero.
//   n >= 0; n == 0 reads nothing, and `data` may then be null.
//   -0.0 is zero. NaN, the infinities and every denormal are not, whatever the processor's flush-to-zero mode is.
//   Exact for every n: the counter has 64 bits. The same answer from every build, thread count and device.
std::int64_t count_nonzero(const void* data, std::int64_t n, Dtype dtype);

// How many bits of `words` words are 1.
std::int64_t count_bits(Bits bits, std::int64_t words);

// What the processor that runs this offers, of what the kernels are compiled for; names as compilers spell them.
std::vector<std::string> cpu_features();

// Of the loops that are compiled for an instruction set each, "avx512", "avx2" and "plain" (C++ for the baseline): those
// that the processor has, the best first; and the one that runs. It is the best, or what the environment variable
// LIGHTNING_AUTOARCH_INSTRUCTION_SET names at the first call; std::invalid_argument where the processor has not got it.
std::vector<std::string> instruction_sets();
std::string instruction_set();

namespace cuda {

// What the CUDA runtime says now. `error` is empty exactly if at least one device can be used.
struct State {
  int device_count = 0;
  int runtime_version = 0;  // 13000 is CUDA 13.0; 0 in a build without CUDA
  int driver_version = 0;   // the newest CUDA that the driver knows; 0 without a driver
  std::string error;
};

// Asks the driver, and so initialises it, but creates no context on any device.
State state();

// The functions below are those of the same name above, for memory on `where.device`: enqueued on `where.stream` (a
// cudaStream_t of that device; null is the default stream). The caller's current device is the same afterwards. In a
// build without CUDA they throw std::runtime_error. Only `select` waits for the device; the others can be captured in a
// CUDA graph. Lists travel as kernel arguments, some hundred tensors a launch.
struct Where {
  int device = 0;
  void* stream = nullptr;
};

// Scratch that `select` needs, in bytes of device memory, aligned to 256: at most 2 % of the weights' bytes or 8 MiB,
// whichever is larger.
std::int64_t select_scratch(const Arrays& arrays, Dtype dtype);

Threshold select(const Arrays& arrays, const Request& request, Dtype dtype, void* scratch, std::int64_t scratch_bytes,
                 Where where);
void apply_masks(const Arrays& arrays, const std::vector<Bits>& masks, Dtype dtype, Where where);
void nm_mask(const Array& array, const Groups& shape, int n, int m, BitsOut out, Dtype dtype, Where where);
void transposable_mask(const Array& array, const Matrices& shape, BitsOut out, Dtype dtype, Where where);
void soft_threshold(const Arrays& arrays, const std::vector<double>& amounts, Dtype dtype, Where where);
void group_norms(const Array& array, const Groups& shape, int p, double* norms, Dtype dtype, Where where);
void group_soft_threshold(const Array& array, const Groups& shape, const double* norms, double amount, Dtype dtype,
                          Where where);

// `*count`, 8 bytes on the device, holds the answer when the stream gets there.
void count_nonzero(const void* data, std::int64_t n, Dtype dtype, std::uint64_t* count, Where where);

}  // namespace cuda
}  // namespace autoarch
