// Lists of arrays as kernel arguments. A launch takes some eighty arrays; they are cut into chunks of a fixed number of
// elements, none of which spans two arrays, and a block finds the array of its chunk by bisection.
//
//   first    the array's first chunk, counted in this launch
//   number   the same chunk, counted over the whole list of arrays in order, whatever launch they are in
//
// A strided array is alone in its launch, with its Layout as an argument of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "../ordered_bits.h"
#include "../prune.h"
#include "tuning.h"

namespace autoarch {
namespace cuda {

template <typename Payload>
struct Item {
  void* data;
  std::int64_t n;  // > 0
  std::uint32_t first, number;
  Payload payload;
};

// Kernel arguments may have 4096 bytes in all on every architecture; the rest is for the Layout and a few numbers.
constexpr std::int64_t list_bytes = 4096 - static_cast<std::int64_t>(sizeof(Layout)) - 128;

template <typename Payload>
struct WorkList {
  static constexpr int capacity = static_cast<int>((list_bytes - 8) / static_cast<std::int64_t>(sizeof(Item<Payload>)));
  int items = 0;
  std::uint32_t chunks = 0;
  Item<Payload> item[capacity];
};

template <typename Payload>
struct Batch {
  WorkList<Payload> list;
  Layout layout;
};

AUTOARCH_HOST_DEVICE constexpr std::int64_t chunks_of(std::int64_t n) {
  return (n + tuning::chunk - 1) / tuning::chunk;
}

// The last item whose `start` (`first` or `number`) is not behind `chunk`; the list has one.
template <typename Payload>
AUTOARCH_HOST_DEVICE inline const Item<Payload>& item_at(const WorkList<Payload>& list, std::uint32_t chunk,
                                                         std::uint32_t Item<Payload>::* start) {
  int low = 0, high = list.items - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (list.item[middle].*start <= chunk)
      low = middle;
    else
      high = middle - 1;
  }
  return list.item[low];
}

// The batches of all arrays that have elements; payload(i) is what goes along with arrays[i].
template <typename Payload, typename PayloadOf>
std::vector<Batch<Payload>> batches_of(const Arrays& arrays, PayloadOf&& payload) {
  std::vector<Batch<Payload>> batches;
  std::vector<Batch<Payload>> strided;
  std::int64_t number = 0;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Array& array = arrays[i];
    if (array.n == 0) continue;
    const bool alone = array.layout.dims > 0;
    auto& into = alone ? strided : batches;
    if (alone || into.empty() || into.back().list.items == WorkList<Payload>::capacity) into.emplace_back();
    WorkList<Payload>& list = into.back().list;
    into.back().layout = array.layout;
    list.item[list.items++] = {array.data, array.n, list.chunks, static_cast<std::uint32_t>(number), payload(i)};
    list.chunks += static_cast<std::uint32_t>(chunks_of(array.n));
    number += chunks_of(array.n);
  }
  batches.insert(batches.end(), strided.begin(), strided.end());
  return batches;
}

inline std::int64_t elements_of(const Arrays& arrays) {
  std::int64_t n = 0;
  for (const Array& array : arrays) n += array.n;
  return n;
}

inline std::int64_t chunks_of(const Arrays& arrays) {
  std::int64_t chunks = 0;
  for (const Array& array : arrays) chunks += chunks_of(array.n);
  return chunks;
}

// The array in which the chunk of this number lies.
inline std::int64_t array_of_chunk(const Arrays& arrays, std::int64_t number) {
  std::size_t i = 0;
  while (number >= chunks_of(arrays[i].n)) number -= chunks_of(arrays[i++].n);
  return static_cast<std::int64_t>(i);
}

}  // namespace cuda
}  // namespace autoarch
