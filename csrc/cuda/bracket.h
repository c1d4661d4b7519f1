// The arithmetic of a bracket: which ranks of a sample enclose a rank of everything, and where a rank lies once the
// keys around the bracket are counted.
#pragma once

#include <cmath>
#include <cstdint>

#include "../ordered_bits.h"

namespace autoarch {
namespace cuda {

using Count = unsigned long long;  // what atomicAdd takes
static_assert(sizeof(Count) == 8, "counts are 64 bits");

// Ranks in the sample, from 1; 0 means open: the lowest or the highest key there is.
struct SampleRanks {
  Count low, high;
};

AUTOARCH_HOST_DEVICE inline SampleRanks sample_ranks(Count sampled, Count candidates, Count remove, double run,
                                                     double deviations) {
  SampleRanks ranks = {0, 0};
  if (sampled == 0 || candidates == 0) return ranks;
  const double n = static_cast<double>(sampled);
  const double share = static_cast<double>(remove) / static_cast<double>(candidates);
  const double reach = deviations * (sqrt(share * (1 - share) * n * run) + 1);
  const double low = floor(share * n - reach), high = ceil(share * n + reach);
  if (low >= 1) ranks.low = static_cast<Count>(low);
  if (high <= n) ranks.high = static_cast<Count>(high);
  return ranks;
}

// How the candidates lie about a bracket (low, high): smaller, equal to its ends, between them.
struct Around {
  Count below, at_low, inside, at_high;
};

enum class Place { missed, at_low, inside, at_high };

// A rank within its place: `rank` of the `equals` or `inside` there, from 1, and how many keys are before the place.
struct Placed {
  Place place;
  Count rank, before;
};

AUTOARCH_HOST_DEVICE inline Placed place_of(const Around& around, Count rank) {
  Count before = around.below;
  if (rank <= before) return {Place::missed, 0, 0};
  if (rank - before <= around.at_low) return {Place::at_low, rank - before, before};
  before += around.at_low;
  if (rank - before <= around.inside) return {Place::inside, rank - before, before};
  before += around.inside;
  if (rank - before <= around.at_high) return {Place::at_high, rank - before, before};
  return {Place::missed, 0, 0};
}

}  // namespace cuda
}  // namespace autoarch
