// Launchers of elementwise.cuh: some eighty arrays a launch.
#include "elementwise.cuh"

#include "../dispatch.h"
#include "../prune.h"
#include "arguments.h"
#include "launch.h"

namespace autoarch {
namespace cuda {

void apply_masks(const Arrays& arrays, const std::vector<Bits>& masks, Dtype dtype, Where where) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  if (masks.size() != arrays.size()) throw std::invalid_argument("Expected one mask for each array.");
  const Stream stream(where, "apply_masks");
  const auto mask = [&](std::size_t i) { return reinterpret_cast<const std::uint32_t*>(masks[i]); };
  for (const auto& batch : batches_of<const std::uint32_t*>(arrays, mask))
    with_bits(dtype, [&](auto bits) {
      stream.launch(stream.blocks_for(batch.list.chunks), zero_where_unmarked<decltype(bits)>, batch.list,
                    batch.layout);
    });
}

void soft_threshold(const Arrays& arrays, const std::vector<double>& amounts, Dtype dtype, Where where) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  if (amounts.size() != arrays.size()) throw std::invalid_argument("Expected one amount for each array.");
  for (const double amount : amounts) check_amount(amount);
  const Stream stream(where, "soft_threshold");
  for (const auto& batch : batches_of<double>(arrays, [&](std::size_t i) { return amounts[i]; }))
    with_dtype(dtype, [&](auto constant) {
      constexpr Dtype type = decltype(constant)::value;
      stream.launch(stream.blocks_for(batch.list.chunks), soft_threshold_kernel<type>, batch.list, batch.layout);
    });
}

void group_soft_threshold(const Array& array, const Groups& shape, const double* norms, double amount, Dtype dtype,
                          Where where) {
  check_groups(array, shape);
  check_amount(amount);
  const Stream stream(where, "group_soft_threshold");
  const auto slices = [&](std::size_t) { return Slices{shape.length, shape.inner, norms, amount}; };
  for (const auto& batch : batches_of<Slices>({array}, slices))
    with_dtype(dtype, [&](auto constant) {
      constexpr Dtype type = decltype(constant)::value;
      stream.launch(stream.blocks_for(batch.list.chunks), shrink_slices<type>, batch.list, batch.layout);
    });
}

}  // namespace cuda
}  // namespace autoarch
