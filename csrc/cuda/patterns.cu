// Launchers of patterns.cuh.
#include "patterns.cuh"

#include "../dispatch.h"
#include "../prune.h"
#include "arguments.h"
#include "launch.h"

namespace autoarch {
namespace cuda {

void nm_mask(const Array& array, const Groups& shape, int n, int m, BitsOut out, Dtype dtype, Where where) {
  check_groups(array, shape);
  if (n < 1 || n > m || m > 64)
    throw std::invalid_argument("Expected 1 <= n <= m <= 64, got n=" + std::to_string(n) + ", m=" + std::to_string(m) +
                                ".");
  if (shape.length % m) throw std::invalid_argument("Expected `length` to be a multiple of m.");
  if (array.n == 0) return;
  const Stream stream(where, "nm_mask");
  const auto words = reinterpret_cast<std::uint32_t*>(out);
  with_bits(dtype, [&](auto bits) {
    using Storage = decltype(bits);
    if constexpr (sizeof(Storage) < 8)
      if (m == 4 && shape.inner == 1) {
        const auto batch = batches_of<std::uint32_t*>({array}, [&](std::size_t) { return words; }).front();
        return stream.launch(stream.blocks_for(batch.list.chunks), nm4_mask_kernel<Storage>, batch.list, batch.layout,
                             n);
      }
    stream.launch(stream.blocks_for(array.n / tuning::threads + 1), nm_mask_kernel<Storage>,
                  static_cast<const Storage*>(array.data), array.layout, array.n, shape.inner, n, m, words);
  });
}

void transposable_mask(const Array& array, const Matrices& shape, BitsOut out, Dtype dtype, Where where) {
  check_array(array.data, array.n);
  if (shape.batch < 0 || shape.rows < 0 || shape.columns < 0 || shape.batch * shape.rows * shape.columns != array.n)
    throw std::invalid_argument("Expected batch * rows * columns to be the array's number of elements.");
  if (shape.rows % 4 || shape.columns % 4)
    throw std::invalid_argument("Expected rows and columns to be multiples of 4.");
  if (array.n == 0) return;
  const Stream stream(where, "transposable_mask");
  stream.clear(out, (array.n + 63) / 64 * 8);
  const std::int64_t tiles = array.n / 16;
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype type = decltype(constant)::value;
    stream.launch(stream.blocks_for(tiles / tuning::threads + 1), transposable_mask_kernel<type>,
                  static_cast<const typename Number<type>::Storage*>(array.data), array.layout, tiles, shape.columns,
                  reinterpret_cast<std::uint32_t*>(out));
  });
}

}  // namespace cuda
}  // namespace autoarch
