// Selection of the smallest magnitudes of a list of arrays, on the device:
//
//   count_candidates    where a mask says which elements are meant
//   sample, aim_sample  keys of random places; two ranks among them enclose the one that is wanted
//   count_around        one read of everything: how many keys are below the bracket, equal to its ends, between them;
//                       those between are collected
//   aim_inside          the rank among the collected, for radix.cuh
//   count_equal, find_cut_chunk, find_cut      where among equals the last one is kept
//   mark                bits and zeros, in one read and one write
//
// Keys equal to the ends of the bracket are counted, not collected: two values, or 90 % zeros, fill no buffer.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../ordered_bits.h"
#include "bracket.h"
#include "packs.cuh"
#include "radix.cuh"
#include "tuning.h"
#include "work_list.h"

namespace autoarch {
namespace cuda {

struct Masks {
  const std::uint32_t* given;  // null: every element is a candidate
  std::uint32_t* out;
};
using SelectList = WorkList<Masks>;

constexpr std::uint32_t no_chunk = 0xffffffffu;

// What the kernels of one call tell each other and, at the end, the host.
struct SelectState {
  Count candidates, remove;
  Count low, high;  // the bracket
  Around around;
  Count sampled;  // keys of the sample, as many as there would have been room for
  Count nan;
  Count kept_in_cut;        // how many of the equals in the chunk of the cut are kept
  std::uint32_t nan_chunk;  // the first chunk with a NaN among its candidates
  std::uint32_t cut_chunk;  // equals in chunks before are kept, in chunks behind not;
  std::int64_t cut_offset;  // in this one those in front of this element of the chunk
  Selection selection[selections];
};

template <typename Bits>
__device__ inline constexpr Bits highest_key() {
  return magnitude_key(static_cast<Bits>(~Bits{0}));
}

template <typename Bits>
__device__ inline constexpr int key_bits() {
  return 8 * static_cast<int>(sizeof(Bits)) - 1;
}

__device__ inline Count warp_sum(Count x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(all_lanes, x, offset);
  return x;  // in lane 0
}

__device__ inline void add_of_warp(Count x, Count* total) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0 && x != 0) atomicAdd(total, x);
}

static __global__ void begin_selection(Count candidates, Count remove, Count highest, SelectState* state) {
  if (threadIdx.x != 0) return;
  *state = {};
  state->candidates = candidates;
  state->remove = remove;
  state->high = highest;
  state->nan_chunk = no_chunk;
}

static __global__ void count_candidates(const __grid_constant__ SelectList list, bool regrow, SelectState* state) {
  Count count = 0;
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::first);
    const std::int64_t begin = static_cast<std::int64_t>(chunk - item.first) * tuning::chunk;
    const std::int64_t end = begin + tuning::chunk < item.n ? begin + tuning::chunk : item.n;
    for (std::int64_t at = begin + threadIdx.x * 32; at < end; at += tuning::threads * 32) {
      const int live = end - at < 32 ? static_cast<int>(end - at) : 32;
      const int marked = __popc(item.payload.given[word_of(at)]);
      count += static_cast<Count>(regrow ? live - marked : marked);
    }
  }
  add_of_warp(count, &state->candidates);
}

template <typename Bits>
constexpr int stage_keys = tuning::stage_packs * pack_size<Bits>;

// Keys of one warp on their way to a buffer: gathered in shared memory, so that one atomic addition makes room for
// many. All lanes make the same calls.
template <typename Bits>
class Collector {
 public:
  __device__ Collector(Bits* staged, Bits* buffer, Count capacity, Count* collected)
      : staged_(staged), buffer_(buffer), capacity_(capacity), collected_(collected) {}

  // For a pack of keys from each lane.
  __device__ void make_room() {
    if (count_ > stage_keys<Bits> - 32 * pack_size<Bits>) flush();
  }

  __device__ void take(bool wanted, Bits key) {
    const unsigned votes = __ballot_sync(all_lanes, wanted);
    if (wanted) staged_[count_ + __popc(votes & ((1u << lane()) - 1u))] = key;
    count_ += __popc(votes);
  }

  __device__ void flush() {
    __syncwarp();
    Count start = 0;
    if (lane() == 0 && count_ > 0) start = atomicAdd(collected_, static_cast<Count>(count_));
    start = __shfl_sync(all_lanes, start, 0);
    for (int i = lane(); i < count_; i += 32)
      if (start + static_cast<Count>(i) < capacity_) buffer_[start + static_cast<Count>(i)] = staged_[i];
    __syncwarp();
    count_ = 0;
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }

  Bits* staged_;
  Bits* buffer_;
  Count capacity_;
  Count* collected_;
  int count_ = 0;
};

__device__ inline Count scrambled(Count x) {  // splitmix64's finaliser
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// The chunks of the whole list are runs of `sample_run` elements; a thread takes one run, at a random place among
// `stride`.
template <typename Bits>
__global__ void sample(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow,
                       Count windows, Count stride, Bits* buffer, Count capacity, SelectState* state) {
  __shared__ Bits staged[tuning::threads / 32][stage_keys<Bits>];
  constexpr Count runs = tuning::chunk / tuning::sample_run;
  Collector<Bits> collector(staged[threadIdx.x / 32], buffer, capacity, &state->sampled);
  for (Count base = Count{blockIdx.x} * tuning::threads; base < windows; base += Count{gridDim.x} * tuning::threads) {
    const Count window = base + threadIdx.x;
    const Count run = window * stride + scrambled(window) % stride;
    const auto chunk = static_cast<std::uint32_t>(run / runs);
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::number);
    const bool here = window < windows && chunk >= item.number;
    const std::int64_t at = static_cast<std::int64_t>(run - Count{item.number} * runs) * tuning::sample_run;
    collector.make_room();
    for (int e = 0; e < tuning::sample_run; ++e) {
      bool wanted = here && at + e < item.n;
      if (wanted && item.payload.given != nullptr)
        wanted = (item.payload.given[word_of(at + e)] >> bit_of(at + e) & 1u) != regrow;
      Bits key = 0;
      if (wanted) key = magnitude_key(static_cast<const Bits*>(item.data)[offset_of(layout, at + e)]);
      collector.take(wanted, key);
    }
  }
  collector.flush();
}

template <typename Bits>
__global__ void aim_sample(Count capacity, double deviations, SelectState* state) {
  if (threadIdx.x != 0) return;
  const Count sampled = state->sampled < capacity ? state->sampled : capacity;
  const SampleRanks ranks =
      sample_ranks(sampled, state->candidates, state->remove, static_cast<double>(tuning::sample_run), deviations);
  state->selection[0] = {0, ranks.low, 0, key_bits<Bits>()};
  state->selection[1] = {0, ranks.high, 0, key_bits<Bits>()};
}

static __global__ void set_bracket(SelectState* state) {
  if (threadIdx.x != 0) return;
  if (state->selection[0].rank != 0) state->low = state->selection[0].low;
  if (state->selection[1].rank != 0) state->high = state->selection[1].low;
}

// Keys in a register, with a bit to spare: `none` is what stands for an element that is no candidate.
template <typename Bits>
using Wide = std::conditional_t<sizeof(Bits) == 8, std::uint64_t, std::uint32_t>;

// What a thread has counted: fewer than 2^32 elements.
struct Counts {
  unsigned below = 0, at_low = 0, at_high = 0, nan = 0;
};

// This pass is to be limited by memory, and there are some 25 instructions to a float32 at that speed. So the distance
// from `low` says nearly all: its top bit is set below, it exceeds the span above; and few packs have more to tell.
template <typename Bits>
__device__ inline void count_pack(const Pack<Bits>& pack, unsigned candidates, Wide<Bits> low, Wide<Bits> span,
                                  Bits infinity, Collector<Bits>& collector, Counts& counts) {
  constexpr Wide<Bits> none = ~Wide<Bits>{0};
  constexpr int top_bit = 8 * static_cast<int>(sizeof none) - 1;
  using Signed = std::make_signed_t<Wide<Bits>>;
  Wide<Bits> keys[pack_size<Bits>];
  Signed largest = -1;
#pragma unroll
  for (int e = 0; e < pack_size<Bits>; ++e) keys[e] = magnitude_key(pack.bits[e]);
  if (candidates != whole_pack<Bits>) {
#pragma unroll
    for (int e = 0; e < pack_size<Bits>; ++e)
      if (!(candidates >> e & 1u)) keys[e] = none;
    counts.below -= static_cast<unsigned>(pack_size<Bits> - __popc(candidates));  // for each `none` is counted there
  }
  collector.make_room();
#pragma unroll
  for (int e = 0; e < pack_size<Bits>; ++e) {
    const Wide<Bits> distance = keys[e] - low;
    counts.below += static_cast<unsigned>(distance >> top_bit);
    largest = static_cast<Signed>(keys[e]) > largest ? static_cast<Signed>(keys[e]) : largest;
    if (__ballot_sync(all_lanes, distance <= span) == 0) continue;
    counts.at_low += distance == 0;
    counts.at_high += distance == span && span != 0;
    collector.take(distance != 0 && distance < span, static_cast<Bits>(keys[e]));
  }
  if (largest <= static_cast<Signed>(infinity)) return;
#pragma unroll
  for (int e = 0; e < pack_size<Bits>; ++e) counts.nan += keys[e] > infinity && keys[e] != none;
}

template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    count_around(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow,
                 Bits infinity, Bits* buffer, Count capacity, SelectState* state) {
  __shared__ Bits staged[tuning::threads / 32][stage_keys<Bits>];
  Collector<Bits> collector(staged[threadIdx.x / 32], buffer, capacity, &state->around.inside);
  const auto low = static_cast<Wide<Bits>>(state->low), span = static_cast<Wide<Bits>>(state->high - state->low);
  const unsigned flip = regrow ? whole_pack<Bits> : 0u;
  Counts counts;
  std::uint32_t nan_chunk = no_chunk;
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::first);
    const unsigned nan_before = counts.nan;
    for_each_pack<Bits>(item, layout, chunk, item.payload.given, [&](const auto&, const Pack<Bits>& pack) {
      count_pack(pack, pack.live & (pack.marked ^ flip), low, span, infinity, collector, counts);
    });
    if (counts.nan != nan_before && nan_chunk == no_chunk) nan_chunk = item.number + (chunk - item.first);
  }
  collector.flush();
  add_of_warp(counts.below, &state->around.below);
  add_of_warp(counts.at_low, &state->around.at_low);
  add_of_warp(counts.at_high, &state->around.at_high);
  add_of_warp(counts.nan, &state->nan);
  if (nan_chunk != no_chunk) atomicMin(&state->nan_chunk, nan_chunk);
}

// The rank among the collected keys, if that is where it lies and all of them are there.
static __global__ void aim_inside(Count capacity, SelectState* state) {
  if (threadIdx.x != 0) return;
  const Placed placed = place_of(state->around, state->remove);
  const bool complete = state->around.inside <= capacity;
  Selection& selection = state->selection[0];
  selection = {};
  state->selection[1] = {};
  if (placed.place != Place::inside || !complete) return;
  selection.low = state->low + 1;
  selection.rank = placed.rank;
  for (Count span = state->high - state->low - 2; span != 0; span >>= 1) ++selection.open;
}

// The rank among all candidates, for histograms of the arrays.
template <typename Bits>
__global__ void aim_at_all(SelectState* state) {
  if (threadIdx.x == 0) state->selection[0] = {0, state->remove, 0, key_bits<Bits>()};
}

template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    histogram_of_arrays(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow,
                        const SelectState* state, Histogram* histogram) {
  __shared__ unsigned counts[selections][bins];
  const Selection selection = state->selection[0];
  const unsigned flip = regrow ? whole_pack<Bits> : 0u;
  clear_counts(counts);
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::first);
    for_each_pack<Bits>(item, layout, chunk, item.payload.given, [&](const auto&, const Pack<Bits>& pack) {
      const unsigned candidates = pack.live & (pack.marked ^ flip);
#pragma unroll
      for (int e = 0; e < pack_size<Bits>; ++e)
        if (candidates >> e & 1u) tally(selection, magnitude_key(pack.bits[e]), counts[0]);
    });
  }
  add_counts(counts, histogram);
}

template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    count_equal(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow,
                Bits threshold, std::uint32_t* equals)  // one for each chunk of the whole list
{
  __shared__ unsigned total;
  const unsigned flip = regrow ? whole_pack<Bits> : 0u;
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::first);
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    unsigned mine = 0;
    for_each_pack<Bits>(item, layout, chunk, item.payload.given, [&](const auto&, const Pack<Bits>& pack) {
      const unsigned candidates = pack.live & (pack.marked ^ flip);
#pragma unroll
      for (int e = 0; e < pack_size<Bits>; ++e)
        mine += (candidates >> e & 1u) && magnitude_key(pack.bits[e]) == threshold;
    });
    const Count sum = warp_sum(mine);
    if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(&total, static_cast<unsigned>(sum));
    __syncthreads();
    if (threadIdx.x == 0) equals[item.number + (chunk - item.first)] = total;  // and nobody else sets it to 0
  }
}

// One block: the chunk with the first of the equals that is not kept; 0 < kept < their number.
static __global__ void find_cut_chunk(const std::uint32_t* equals, std::int64_t chunks, Count kept,
                                      SelectState* state) {
  const Found found = block_find(chunks, kept + 1, [&](std::int64_t i) { return Count{equals[i]}; });
  if (threadIdx.x != 0) return;
  state->cut_chunk = static_cast<std::uint32_t>(found.index);
  state->kept_in_cut = kept - found.before;
}

// One block: the element at the cut, if the list has it.
template <typename Bits>
__global__ void find_cut(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow,
                         Bits threshold, SelectState* state) {
  const std::uint32_t chunk = state->cut_chunk;
  const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::number);
  if (chunk < item.number || chunk - item.number >= chunks_of(item.n)) return;
  const std::int64_t begin = static_cast<std::int64_t>(chunk - item.number) * tuning::chunk;
  const std::int64_t size = item.n - begin < tuning::chunk ? item.n - begin : tuning::chunk;
  const auto equal = [&](std::int64_t i) -> Count {
    const std::int64_t at = begin + i;
    if (item.payload.given != nullptr && (item.payload.given[word_of(at)] >> bit_of(at) & 1u) == regrow) return 0;
    return magnitude_key(static_cast<const Bits*>(item.data)[offset_of(layout, at)]) == threshold;
  };
  const Found found = block_find(size, state->kept_in_cut + 1, equal);
  if (threadIdx.x == 0) state->cut_offset = found.index;
}

// Which elements of the pack at `at` lie in front of element `cut`.
template <typename Bits>
__device__ inline unsigned in_front(std::int64_t at, std::int64_t cut) {
  if (at >= cut) return 0;
  return cut - at >= pack_size<Bits> ? whole_pack<Bits> : (1u << static_cast<int>(cut - at)) - 1u;
}

template <typename Bits>
__global__ void __launch_bounds__(tuning::threads, tuning::resident_blocks)
    mark(const __grid_constant__ SelectList list, const __grid_constant__ Layout layout, bool regrow, bool zero,
         bool all, Bits threshold, const SelectState* state) {
  const unsigned flip = regrow ? whole_pack<Bits> : 0u;
  const std::uint32_t cut_chunk = state->cut_chunk;
  const std::int64_t cut_offset = state->cut_offset;
  for (std::uint32_t chunk = blockIdx.x; chunk < list.chunks; chunk += gridDim.x) {
    const Item<Masks>& item = item_at(list, chunk, &Item<Masks>::first);
    const std::uint32_t number = item.number + (chunk - item.first);
    const std::int64_t begin = static_cast<std::int64_t>(chunk - item.first) * tuning::chunk;
    const std::int64_t cut = begin + (number < cut_chunk ? tuning::chunk : number == cut_chunk ? cut_offset : 0);
    for_each_pack<Bits>(item, layout, chunk, item.payload.given, [&](const auto& access, Pack<Bits>& pack) {
      unsigned larger = 0, equal = 0;
#pragma unroll
      for (int e = 0; e < pack_size<Bits>; ++e) {
        const Bits key = magnitude_key(pack.bits[e]);
        larger |= static_cast<unsigned>(key > threshold) << e;
        equal |= static_cast<unsigned>(key == threshold) << e;
      }
      const unsigned kept = all ? whole_pack<Bits> : larger | (equal & in_front<Bits>(pack.at, cut));
      const unsigned candidates = pack.live & (pack.marked ^ flip);
      const unsigned bits = (candidates & kept) | (pack.live & ~candidates & flip);
      if (zero) write_zeros(access, pack, pack.live & ~bits);
      write_mask<Bits>(item.payload.out, pack.at, item.n, bits);
    });
  }
}

}  // namespace cuda
}  // namespace autoarch
